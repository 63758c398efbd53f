"""The write-verify loop: program, read back, repeat until the value is within tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import Variation, max_abs
from lightning_cim.variation.device_file import preset_file, presets
from lightning_cim.variation.gaussian import Gaussian, slice_factor


@dataclass(frozen=True)
class Written:
    """What a write-verify loop left.

    Attributes:
        error: Remaining error of each value.
        cycles: int32, write cycles after the first write; 0 where that was good enough.
    """

    error: Tensor
    cycles: Tensor


@dataclass(frozen=True)
class WriteVerify:
    """Simulates write-verify weight by weight; residual and cycles are what comes out, not what is put in.

    Every number is in the units of the raw variation's sigma: relative to max|W| times the variation's slicing factor
    (which is 1 for ``sigma_ref="weight"``). Each cycle reads the value; if the error read is beyond the tolerance, the
    value is written:

    * ``form="pulses"``: a small pulse moves it towards its target by ``step * (1 + step_noise * z)``.
    * ``form="redraw"``: it is written anew, with an independent error of the raw variation.

    The defaults are ours, chosen so that sigma 0.1 becomes 0.030 in 10.4 write cycles a weight, the first write
    included: SWIM's published residual, at about the 10 cycles that it is remembered to count. The tolerance of 0.06
    that it is remembered with does not give both: at 10 cycles most weights stop just inside it, which leaves 0.048.
    :func:`lightning_cim.write_verify_curve` measures such figures.

    Attributes:
        tolerance: Largest accepted |error|, > 0.
        step: Effect of a pulse, > 0: its mean over cycles, and its median over devices.
        step_noise: Std of a pulse's effect relative to ``step``, at least 0 (cycle-to-cycle variation).
        read_noise: Std of one reading's error, at least 0.
        max_cycles: Give a weight up after so many, at least 1; its error then stays what it is.
        form: ``"pulses"`` or ``"redraw"``.
        step_d2d: Spread of the step from device to device, at least 0: each device has a step of its own for good,
            ``step * exp(step_d2d * z)``, which is never negative (aihwkit's log-normal form).
        write_noise: Std of what a pulse adds to the value until the next pulse, at least 0. It does not accumulate, and
            that of the last pulse stays in the residual. The first write's error counts as free of it.
        saturation: How much weaker a pulse gets on its way to the end of the range: its mean effect is that at 0 times
            1 - saturation * value, the value counted in its direction. Values cannot pass the ends, -1/saturation and
            1/saturation, where that is 0. 0: pulses are the same everywhere; 1: soft bounds at -1 and 1.

    Raises:
        ValueError: Numbers out of range.

    Example:
        >>> loop = WriteVerify(tolerance=0.06, step=0.05, step_noise=0.0)
        >>> written = loop.run(torch.tensor([0.01, -0.20]), torch.Generator())
        >>> written.error, written.cycles
        (tensor([ 0.0100, -0.0500]), tensor([0, 3], dtype=torch.int32))
    """

    tolerance: float = 0.036
    step: float = 0.0055
    step_noise: float = 0.5
    read_noise: float = 0.0
    max_cycles: int = 1000
    form: Literal["pulses", "redraw"] = "pulses"
    step_d2d: float = 0.0
    write_noise: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tolerance", "step", "step_noise", "read_noise", "step_d2d", "write_noise", "saturation"):
            value, is_positive = getattr(self, name), name in ("tolerance", "step")
            if not math.isfinite(value) or value < 0 or (is_positive and value == 0):
                bound = "> 0" if is_positive else ">= 0"
                raise ValueError(f"WriteVerify: {name} must be a finite number {bound}, got {value!r}")
        if self.max_cycles < 1:
            raise ValueError(f"WriteVerify: max_cycles must be at least 1, got {self.max_cycles}")
        if self.form not in ("pulses", "redraw"):
            raise ValueError(f"WriteVerify: form must be 'pulses' or 'redraw', got {self.form!r}")

    @classmethod
    def preset(cls, name: str, **settings: Any) -> WriteVerify:
        """Pulses of a measured device, for variations whose sigma is relative to max|W|.

        As in their source (aihwkit's soft-bounds devices, fitted to arrays of Gong, Rasch et al., IEDM 2022) a weight
        lies on one device: max|W| is the upper end of its range, -max|W| the lower one, 0 the middle. Figures of the
        preset's file become

        * ``step``: the smallest update, which the source means at the middle of the range
        * ``step_noise``: its relative std from cycle to cycle; ``step_d2d``: that of its logarithm, device to device
        * ``write_noise``: the file's, in units of the smallest update there
        * ``saturation``: 1, the source's soft bounds

        Not simulated: the spread of the range itself, and devices that never move (``corrupt_share`` in the file).

        Args:
            name: ``"rram-om-array"`` or ``"rram-hfo2-array"``.
            **settings: Any other argument, such as ``tolerance`` or ``read_noise``; one from above goes before the
                file's.

        Raises:
            ValueError: No such preset, or one whose file has no statistics of pulses; names those that have them.

        Example:
            >>> loop = WriteVerify.preset("rram-om-array", tolerance=0.06)
            >>> loop.step, loop.step_noise, loop.step_d2d, round(loop.write_noise, 4)
            (0.0949, 0.4158, 0.7829, 0.1339)
        """
        known = [preset for preset in presets() if _has_pulses(preset)]
        if name not in known:
            raise ValueError(f"WriteVerify: statistics of pulses are known for {', '.join(known)}; not for {name!r}")
        record = preset_file(name).record
        update, conductance = record["update"], record["conductance"]
        step = float(update["smallest_update"]) * 2.0 / (conductance["max"] - conductance["min"])
        pulses = {
            "step": step,
            "step_noise": float(update["cycle_to_cycle"]),
            "step_d2d": float(update["device_to_device"]),
            "write_noise": float(update["write_noise"]) * step,
            "saturation": 1.0,
        }
        return cls(**{**pulses, **settings})

    def run(
        self,
        error: Tensor,
        generator: Generator,
        write: Callable[[], Tensor] | None = None,
        target: Tensor | None = None,
    ) -> Written:
        """Run the loop on every value at once.

        Args:
            error: Errors of the first write, any shape.
            generator: Source of randomness; the loop runs on its device.
            write: Errors of another independent write of all values, for ``form="redraw"``.
            target: What the values should be, for ``saturation``; of the shape and in the units of ``error``.

        Raises:
            ValueError: ``form="redraw"`` without ``write``, or a saturation without ``target``.
        """
        if self.form == "redraw" and write is None:
            raise ValueError("WriteVerify(form='redraw') needs write=, which draws the errors of another write")
        if self.saturation and target is None:
            raise ValueError(f"WriteVerify(saturation={self.saturation}) needs target=, which says where values lie")
        left = error.detach().to(generator.device, torch.float32).flatten().clone()
        # What pulses move: the value but for its write noise.
        held = left.clone() if self.write_noise else left
        aim = target.detach().to(left).flatten() if self.saturation and target is not None else None
        steps = self.step * torch.exp(self.step_d2d * _normal(left.shape, generator)) if self.step_d2d else None
        cycles = torch.zeros(left.shape, dtype=torch.int32, device=left.device)
        active = torch.arange(left.numel(), device=left.device)
        for _ in range(self.max_cycles):
            read = left[active]
            if self.read_noise:
                read = read + self.read_noise * _normal(read.shape, generator)
            outside = read.abs() > self.tolerance
            active, read = active[outside], read[outside]
            if not active.numel():
                break
            if self.form == "redraw":
                assert write is not None
                left[active] = write().flatten().to(left)[active]
            else:
                away = read.sign()  # the pulse goes the other way
                mean: Tensor | float = 1.0
                if aim is not None:  # the first write may lie beyond an end, hence the clamp
                    mean = (1.0 + self.saturation * away * (aim[active] + held[active])).clamp_(min=0.0)
                effect = mean + self.step_noise * _normal(read.shape, generator) if self.step_noise else mean
                held[active] -= (self.step if steps is None else steps[active]) * away * effect
                if aim is not None:
                    value, end = aim[active] + held[active], 1.0 / self.saturation
                    held[active] = value.clamp_(-end, end) - aim[active]
                if self.write_noise:
                    left[active] = held[active] + self.write_noise * _normal(read.shape, generator)
            cycles[active] += 1
        return Written(left.view(error.shape), cycles.view(error.shape))

    def settle(
        self, weight: Tensor, deviation: Tensor, variation: Variation, generator: Generator, numbers: Any = None
    ) -> Written:
        """Run the loop on the devices of one parameter.

        Args:
            weight: Target values.
            deviation: What the first write left beside them, in the weight's units.
            variation: The raw variation, which sets the units and errs at each rewrite.
            generator: Source of randomness.
            numbers: The random numbers of the first write, of which a rewrite keeps what is the devices' own; None:
                each rewrite is independent.

        Returns:
            The remaining deviation in the weight's units, and the cycles; on the weight's device.

        Raises:
            ValueError: A saturation, with a variation that is not relative to max|W|: the range's ends are not known.
        """
        if self.saturation and unit_factor(variation) != 1.0:
            raise ValueError(
                f"{self} has soft bounds at max|W|, so its numbers are relative to max|W|, while those of {variation}"
                " are relative to a device; give a variation with sigma_ref='weight'"
            )
        unit = max_abs(weight) * unit_factor(variation)
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))

        def write() -> Tensor:
            if numbers is None:
                return variation.sample(weight, generator) / unit
            return variation.deviation(weight, variation.redraw(weight.shape, numbers, generator)) / unit

        written = self.run(deviation / unit, generator, write, weight / unit)
        return Written(written.error.to(weight.device) * unit, written.cycles.to(weight.device))


def unit_factor(variation: Variation) -> float:
    """One unit of the variation's sigma, in units of max|W|.

    Example:
        >>> round(unit_factor(Gaussian.published("neft", 0.1)), 4)
        0.7776
    """
    return slice_factor(**convention(variation))


def default_residual(variation: Variation, sigma: float = 0.03) -> Gaussian:
    """SWIM's residual of verified weights, with sigma as the raw variation means it.

    Example:
        >>> print(default_residual(Gaussian.published("swim", 0.1)))
        Gaussian(sigma=0.03, sigma_ref='lsb', weight_bits=8, device_bits=1)
    """
    return Gaussian(sigma, **convention(variation))


def convention(variation: Variation) -> dict[str, Any]:
    """What a variation's sigma is relative to; that of the first part that has a sigma, else the weight."""
    for part in variation.causes:
        if hasattr(part, "sigma_ref"):
            return {name: getattr(part, name, None) for name in ("sigma_ref", "weight_bits", "device_bits")}
    return {"sigma_ref": "weight"}


def _has_pulses(preset: str) -> bool:
    return "smallest_update" in preset_file(preset).record.get("update", {})


def _normal(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
