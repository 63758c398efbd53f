"""Energy and area of analog-to-digital converters, from four sources that differ by 2 to 12 times at 5 to 8 bits.

Choose one a report and print which; a ranking of designs that holds under one of them only is a ranking of converters.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from lightning_cim.codesign.cost.layers import Array
from lightning_cim.codesign.cost.scaling import area_scale, energy_scale

ADC = Literal["flash", "sar", "isaac", "survey"]
"""``"flash"`` and ``"sar"``: NeuroSim's, fitted. ``"isaac"``: ISAAC's SAR scaled by bits. ``"survey"``: the best of the
published ones."""

FLASH_PJ = (0.007457, 0.0016982)
"""pJ at 22 nm: constant, and per 2^bits."""
FLASH_UM2 = (7.906, 0.78019)
"""um2 at 22 nm: a e^(b bits)."""
SAR_PJ_PER_BIT = 0.1374
SAR_UM2 = (-8.02, 24.883)
"""um2 at 22 nm: constant, and per bit."""

_ISAAC_BITS = (4, 5, 6, 7, 8, 9, 10)
_ISAAC_PJ = (0.79, 0.99, 1.20, 1.42, 1.67, 1.97, 2.38)
_ISAAC_UM2 = (361.0, 477.0, 627.0, 845.0, 1200.0, 1828.0, 3002.0)
"""At 32 nm and 1.2 GS/s, from the notes of the open hwcomponents library; its executable scaling by 2^bits differs."""

BITS: dict[ADC, tuple[int, int]] = {"flash": (4, 8), "sar": (4, 8), "isaac": (4, 10), "survey": (4, 14)}
"""Where each is known; 8 bits of flash are one beyond the fit, those of SAR too."""


def adc_energy_pj(kind: ADC, bits: int | Array, tech_nm: float | Array = 22, hertz: float | Array = 490e6) -> Array:
    """Energy of one conversion in pJ.

    Args:
        kind: Source of the numbers.
        bits: Resolution.
        tech_nm: Node. The survey has a law of its own, the others scale as :mod:`~lightning_cim.codesign.cost.scaling`.
        hertz: Conversions a second; only the survey depends on it.

    Raises:
        ValueError: Unknown kind, or bits outside :data:`BITS`.

    Example:
        >>> float(adc_energy_pj("isaac", 8, tech_nm=32))
        1.67
        >>> round(float(adc_energy_pj("survey", 8, tech_nm=32, hertz=1.2e9)), 2)
        1.85
    """
    resolution = _checked(kind, bits)
    if kind == "flash":
        return energy_scale(tech_nm) * (FLASH_PJ[0] + FLASH_PJ[1] * 2.0**resolution)
    if kind == "sar":
        return energy_scale(tech_nm) * SAR_PJ_PER_BIT * resolution
    if kind == "isaac":
        return energy_scale(tech_nm) / energy_scale(32) * np.interp(resolution, _ISAAC_BITS, _ISAAC_PJ)
    return _survey_energy_pj(resolution, tech_nm, hertz)


def adc_area_um2(kind: ADC, bits: int | Array, tech_nm: float | Array = 22, hertz: float | Array = 490e6) -> Array:
    """Area of one converter in square micrometres, with the arguments and errors of :func:`adc_energy_pj`.

    Example:
        >>> round(float(adc_area_um2("survey", 8, tech_nm=32, hertz=1.2e9)))
        6310
    """
    resolution = _checked(kind, bits)
    if kind == "flash":
        return area_scale(tech_nm) * FLASH_UM2[0] * np.exp(FLASH_UM2[1] * resolution)
    if kind == "sar":
        return area_scale(tech_nm) * (SAR_UM2[0] + SAR_UM2[1] * resolution)
    if kind == "isaac":
        return area_scale(tech_nm) / area_scale(32) * np.interp(resolution, _ISAAC_BITS, _ISAAC_UM2)
    energy = _survey_energy_pj(resolution, tech_nm, hertz)
    return np.exp(1.346 + 0.9933 * np.log(tech_nm) + 0.1807 * np.log(hertz) + 0.2991 * np.log(energy))


def lossless_bits(rows: int, cell_bits: int, dac_bits: int = 1, flipped: bool = False) -> int:
    """Bits of an ADC that clips nothing: fewer clip, which the accuracy has to be simulated with.

    Args:
        rows: Read at once.
        cell_bits: Stored in a cell.
        dac_bits: Of the input at a time.
        flipped: ISAAC's encoding, which stores a column of large weights inverted and saves one bit.

    Example:
        >>> lossless_bits(128, 2), lossless_bits(128, 1), lossless_bits(128, 2, flipped=True)
        (10, 8, 9)
    """
    exact = int(np.ceil(np.log2(rows))) + cell_bits + dac_bits
    return exact - (cell_bits == 1 and dac_bits == 1) - flipped


def _survey_energy_pj(bits: Array, tech_nm: float | Array, hertz: float | Array) -> Array:
    """A bound fitted to Murmann's survey by Andrulis and Chen (MIT)."""
    figure_of_merit = np.minimum(213.78 - 2.872 * np.log(hertz), 128.31 + 3.2205 * np.ceil(bits))
    joule = 0.5 * 10 ** ((6.02 * bits + 1.76 - figure_of_merit) / 10)
    return np.asarray(joule * np.exp(26.050 + 1.880 * np.log(tech_nm) - 2.829 * np.log(bits) - 1.470))


def _checked(kind: ADC, bits: int | Array) -> Array:
    if kind not in BITS:
        raise ValueError(f"there is no ADC {kind!r}: known are {', '.join(BITS)}")
    low, high = BITS[kind]
    resolution = np.asarray(bits, dtype=float)
    if not np.all((resolution >= low) & (resolution <= high)):
        raise ValueError(f"the {kind!r} ADC is known from {low} to {high} bits, got {bits}")
    return resolution
