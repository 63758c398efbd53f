"""The circuits around crossbars while a Trainer runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import Self

from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.calibrated import CalibratedCallback
from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.crossbar import Crossbars
from lightning_cim.chip.mapping import Mapping, Target
from lightning_cim.chip.quantise import FollowedRange
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.transform import Program, Stage, Stored, Transform


class CircuitPlace(Transform):
    """Keeps the circuits' place in a model's chain, so that it has them once; they act on products, not on weights."""

    stage = Stage.CIRCUIT

    @property
    def is_null(self) -> bool:
        """Always."""
        return True

    def apply(self, stored: Stored) -> None:
        """Change nothing: what the devices hold is the same with and without circuits."""


class Crossbar(CalibratedCallback):
    """Compute the mapped layers as crossbars with their circuits do: on blocks of rows, through DAC, wires and ADC.

    Everything is off by default. A layer's input passes the DAC; each block of ``rows`` rows of its unrolled matrix
    gives a partial sum, with weights as the wires leave them (first-order IR drop) and with output noise; each partial
    sum passes an ADC; the results are added digitally, then the bias. Ranges of the converters follow training batches
    and are in the callback's state. Gradients pass straight through converters where they are not clipped.

    The layers take the weights they find: quantised and deviated ones with :class:`MixedPrecision` and
    :class:`VariationInjection`, those of the chip in :func:`evaluate_chips`. Activations that :class:`MixedPrecision`
    quantises come to the DAC quantised. Output noise is redrawn at every forward pass, another one on each rank and,
    in evaluation, on each chip.

    Args:
        rows: Word lines of an array; None: one array takes all rows of a layer.
        cols: Columns of an array (outputs), for the wires; None: one array takes all outputs.
        adc_bits: 2 to 16; None: ideal.
        dac_bits: 2 to 16; None: ideal.
        output_noise: Standard deviation on each partial sum, as a share of its ADC's full scale.
        wire_resistance: Of a bit line or word line from one cell to the next, in ohm; needs ``g_max``.
        g_max: Conductance of a device that holds the largest weight, in siemens.
        g_min: Conductance of a device that holds 0, in siemens.
        momentum: Weight of the newest batch in the moving averages of ranges.
        percentile: Share of magnitudes within a range, in per cent.
        seed: Of the output noise.
        mapping: Which layers lie on crossbars; default: every matrix weight. All must be Linear, Conv1d, Conv2d or
            Conv3d; exclude others.

    Raises:
        MisconfigurationException: A number out of its range, or wire resistance without ``g_max``.

    Example:
        >>> from lightning_cim.callbacks.crossbar import Crossbar
        >>> crossbar = Crossbar(rows=128, cols=128, adc_bits=8, dac_bits=8)
    """

    ranges_of = "converter"

    def __init__(
        self,
        rows: int | None = None,
        cols: int | None = None,
        adc_bits: int | None = None,
        dac_bits: int | None = None,
        output_noise: float = 0.0,
        wire_resistance: float = 0.0,
        g_max: float | None = None,
        g_min: float = 0.0,
        momentum: float = 0.1,
        percentile: float = 99.95,
        seed: int = 0,
        mapping: Mapping | None = None,
    ) -> None:
        super().__init__(mapping)
        try:
            self.circuit = Circuit(
                rows=rows,
                cols=cols,
                adc_bits=adc_bits,
                dac_bits=dac_bits,
                output_noise=output_noise,
                wire_resistance=wire_resistance,
                g_max=g_max,
                g_min=g_min,
                momentum=momentum,
                percentile=percentile,
                seed=seed,
            )
        except ValueError as error:
            raise MisconfigurationException(f"Crossbar: {error}") from error
        self._crossbars = Crossbars(self.circuit)
        self._place = CircuitPlace(self.mapping)
        self._batches = 0

    @property
    def settings(self) -> str:
        """The circuit's numbers and the mapping."""
        return f"{self.circuit}, {self.mapping}"

    @property
    def has_ranges(self) -> bool:
        """Whether there are converters or noise."""
        return self.circuit.has_ranges

    @property
    def ranges(self) -> Sequence[FollowedRange]:
        """Those of all converters, by layer."""
        return self._crossbars.ranges

    def make_transform(self) -> CircuitPlace:
        """The circuits' place in the chain."""
        return self._place

    def attach(self, trainer: Any, pl_module: Any) -> None:
        """Attach, or leave everything as it was."""
        try:
            super().attach(trainer, pl_module)
        except MisconfigurationException:
            self.detach()
            raise

    def on_attach(self, trainer: Any, pl_module: Any, targets: list[Target]) -> None:
        """Put the circuits around the layers.

        Raises:
            MisconfigurationException: Layers that no circuit can be put around, or ranges that do not fit.
        """
        try:
            self._crossbars.attach(pl_module, targets)
        except ValueError as error:
            raise MisconfigurationException(f"Crossbar: {error}") from error

    def on_detach(self, pl_module: Any) -> None:
        """Take the circuits away."""
        self._crossbars.detach()

    def for_evaluation(self) -> Self:
        """Share the ranges, not the layers."""
        twin = super().for_evaluation()
        twin._crossbars = self._crossbars.for_copy()
        twin._place = CircuitPlace(self.mapping)
        return twin

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach; every validation sees the same noise."""
        super().on_validation_start(trainer, pl_module)
        self._restart_noise(pl_module)

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach; every test of a chip sees the same noise."""
        super().on_test_start(trainer, pl_module)
        self._restart_noise(pl_module)

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Attach; every prediction sees the same noise."""
        super().on_predict_start(trainer, pl_module)
        self._restart_noise(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Let ranges follow this batch, with noise of its own on each rank."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self._crossbars.observing = True
        self._crossbars.noise.restart(f"train/{trainer.global_rank}", self._batches)
        self._batches += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Freeze the ranges until the next batch."""
        self._crossbars.observing = False
        super().on_train_batch_end(trainer, pl_module)

    def detach(self) -> None:
        """Detach, and follow no data."""
        super().detach()
        self._crossbars.observing = False

    def state_dict(self) -> dict[str, Any]:
        """Ranges of the converters, and batches seen so far: a resumed run goes on with the next noise."""
        return {"converters": self._crossbars.state_dict(), "batches": self._batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore ranges and counter."""
        self._crossbars.load_state_dict(state_dict["converters"])
        self._batches = state_dict["batches"]

    def _restart_noise(self, pl_module: Any) -> None:
        programs = [link for link in scope_of(pl_module).chain if isinstance(link, Program) and not link.is_null]
        chip = programs[0].chip if programs else None
        stream = "evaluation" if chip is None else f"evaluation/{chip.stream}/{chip.seed}"
        self._crossbars.noise.restart(stream, 0 if chip is None else chip.index)
