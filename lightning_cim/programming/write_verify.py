"""The write-verify loop: program, read back, repeat until the value is within tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import Composed, Variation, max_abs
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

    The settings are ours. With the default pulses a weight takes about 9 cycles at sigma 0.1, close to the 10 that SWIM
    is remembered to count, but most weights stop just inside the tolerance: the residual std is near 0.05, not the
    published 0.03. Redrawing gives the opposite: a residual of 0.034, for about 1.2 cycles.

    Attributes:
        tolerance: Largest accepted |error|, > 0. SWIM's is remembered as 0.06.
        step: Mean effect of a pulse, > 0.
        step_noise: Std of a pulse's effect relative to ``step``, at least 0 (cycle-to-cycle variation).
        read_noise: Std of one reading's error, at least 0.
        max_cycles: Give a weight up after so many, at least 1; its error then stays what it is.
        form: ``"pulses"`` or ``"redraw"``.

    Raises:
        ValueError: Numbers out of range.

    Example:
        >>> loop = WriteVerify(step=0.05, step_noise=0.0)
        >>> written = loop.run(torch.tensor([0.01, -0.20]), torch.Generator())
        >>> written.error, written.cycles
        (tensor([ 0.0100, -0.0500]), tensor([0, 3], dtype=torch.int32))
    """

    tolerance: float = 0.06
    step: float = 0.004
    step_noise: float = 0.5
    read_noise: float = 0.0
    max_cycles: int = 1000
    form: Literal["pulses", "redraw"] = "pulses"

    def __post_init__(self) -> None:
        for name, least in (("tolerance", None), ("step", None), ("step_noise", 0.0), ("read_noise", 0.0)):
            value = getattr(self, name)
            if not math.isfinite(value) or (value <= 0 if least is None else value < least):
                bound = "> 0" if least is None else ">= 0"
                raise ValueError(f"WriteVerify: {name} must be a finite number {bound}, got {value!r}")
        if self.max_cycles < 1:
            raise ValueError(f"WriteVerify: max_cycles must be at least 1, got {self.max_cycles}")
        if self.form not in ("pulses", "redraw"):
            raise ValueError(f"WriteVerify: form must be 'pulses' or 'redraw', got {self.form!r}")

    def run(self, error: Tensor, generator: Generator, write: Callable[[], Tensor] | None = None) -> Written:
        """Run the loop on every value at once.

        Args:
            error: Errors of the first write, any shape.
            generator: Source of randomness; the loop runs on its device.
            write: Errors of another independent write of all values, for ``form="redraw"``.

        Raises:
            ValueError: ``form="redraw"`` without ``write``.
        """
        if self.form == "redraw" and write is None:
            raise ValueError("WriteVerify(form='redraw') needs write=, which draws the errors of another write")
        left = error.detach().to(generator.device, torch.float32).flatten().clone()
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
                effect = 1.0 + self.step_noise * _normal(read.shape, generator) if self.step_noise else 1.0
                left[active] -= self.step * read.sign() * effect
            cycles[active] += 1
        return Written(left.view(error.shape), cycles.view(error.shape))

    def settle(self, weight: Tensor, deviation: Tensor, variation: Variation, generator: Generator) -> Written:
        """Run the loop on the devices of one parameter.

        Args:
            weight: Target values.
            deviation: What the first write left beside them, in the weight's units.
            variation: The raw variation, which sets the units and errs at each rewrite.
            generator: Source of randomness.

        Returns:
            The remaining deviation in the weight's units, and the cycles; on the weight's device.
        """
        unit = max_abs(weight) * unit_factor(variation)
        unit = torch.where(unit > 0, unit, torch.ones_like(unit))

        def write() -> Tensor:
            return variation.sample(weight, generator) / unit

        written = self.run(deviation / unit, generator, write)
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
    for part in variation.parts if isinstance(variation, Composed) else (variation,):
        if hasattr(part, "sigma_ref"):
            return {name: getattr(part, name, None) for name in ("sigma_ref", "weight_bits", "device_bits")}
    return {"sigma_ref": "weight"}


def _normal(shape: torch.Size, generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device)
