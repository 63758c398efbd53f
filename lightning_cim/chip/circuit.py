"""The numbers of the circuits around a crossbar."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

_INTEGERS = {"rows": (1, math.inf), "cols": (1, math.inf), "adc_bits": (2, 16), "dac_bits": (2, 16)}


@dataclass(frozen=True)
class Circuit:
    """What surrounds the arrays that hold a layer's weights. Everything is off by default.

    Attributes:
        rows: Word lines of an array. The matrix of a layer is cut into blocks of so many rows; each block gives a
            partial sum of its own, and these are added digitally. None: one array takes all rows.
        cols: Columns of an array, one for each output (the two of a differential pair lie in two arrays). It matters
            for the wires only. None: one array takes all outputs.
        adc_bits: Resolution of what reads partial sums, 2 to 16; None: ideal.
        dac_bits: Resolution of what drives the word lines, 2 to 16; None: ideal.
        output_noise: Standard deviation of the Gaussian noise on each partial sum, before the ADC and redrawn at every
            forward pass, as a share of the ADC's range from 0 to full scale.
        wire_resistance: Resistance of a bit line or word line from one cell to the next, in ohm.
        g_max: Conductance of a device that holds the layer's largest weight, in siemens.
        g_min: Conductance of a device that holds 0, in siemens.
        momentum: Weight of the newest batch in the moving averages of the converters' ranges, in (0, 1].
        percentile: Share of magnitudes within a converter's range, in per cent.
        seed: Of the output noise.

    Raises:
        ValueError: A number out of its range, or wire resistance without conductances.

    Example:
        >>> Circuit(rows=128, adc_bits=8, dac_bits=8).is_null
        False
    """

    rows: int | None = None
    cols: int | None = None
    adc_bits: int | None = None
    dac_bits: int | None = None
    output_noise: float = 0.0
    wire_resistance: float = 0.0
    g_max: float | None = None
    g_min: float = 0.0
    momentum: float = 0.1
    percentile: float = 99.95
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (least, most) in _INTEGERS.items():
            value = getattr(self, name)
            if value is not None and not (_is_integer(value) and least <= value <= most):
                allowed = f"an integer >= {least}" if most == math.inf else f"an integer from {least} to {most}"
                raise ValueError(f"{name} must be {allowed}, or None for an ideal circuit, got {value!r}")
        for name in ("output_noise", "wire_resistance", "g_min"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number >= 0, got {value!r}")
        if not 0 < self.momentum <= 1:
            raise ValueError(f"momentum must lie in (0, 1], got {self.momentum!r}")
        if not 0 < self.percentile <= 100:
            raise ValueError(f"percentile must lie in (0, 100], got {self.percentile!r}")
        if self.g_max is None:
            if self.wire_resistance:
                raise ValueError(
                    f"wire_resistance={self.wire_resistance!r} ohm needs the conductance of the devices: give g_max in"
                    " siemens, for example g_max=25e-6"
                )
        elif not (math.isfinite(self.g_max) and self.g_max > self.g_min):
            raise ValueError(
                f"g_max must be a finite conductance in siemens, larger than g_min={self.g_min!r}, got {self.g_max!r}"
            )

    @property
    def has_ranges(self) -> bool:
        """Whether something depends on ranges that are calibrated by data."""
        return self.adc_bits is not None or self.dac_bits is not None or self.output_noise > 0

    @property
    def is_null(self) -> bool:
        """Whether the layers compute exactly as without any circuit."""
        return self.rows is None and self.wire_resistance == 0 and not self.has_ranges


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
