"""Device variation that is only known to be bounded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import Variation, max_abs


@dataclass(frozen=True)
class Uniform(Variation):
    """Independent deviation of every weight, uniform between -bound and bound times max|W| of the tensor.

    What is left when every device was written and verified until it lies within a tolerance, and nothing else is known.
    The box of the worst-case search ("Computing-In-Memory Neural Network Accelerators for Safety-Critical Systems: Can
    Small Device Variations Be Disastrous?", ICCAD 2022) is the same, so that its chips and random ones compare.

    Attributes:
        bound: Largest deviation in units of max|W|, at least 0. Typical: 0.03 or 0.06.

    Example:
        >>> round(Uniform(bound=0.03).std, 5)
        0.01732
    """

    bound: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.bound) and self.bound >= 0):
            raise ValueError(f"Uniform: bound must be a finite number >= 0, got {self.bound!r}")

    def draw(self, shape: torch.Size, generator: Generator) -> Tensor:
        """Numbers uniform in [-1, 1): float32 of the given shape on the generator's device."""
        return torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float32).mul_(2).sub_(1)

    def deviation(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Numbers times bound times max|W|."""
        return numbers.to(weight.device) * (max_abs(weight) * self.bound)

    def deviate(self, weight: Tensor, numbers: Tensor) -> Tensor:
        """Weight and deviation in one pass over memory."""
        return torch.addcmul(weight, numbers.to(weight.device, weight.dtype), max_abs(weight) * self.bound)

    def scaled(self, factor: float) -> Uniform:
        """The same variation within ``factor`` times the bound."""
        return replace(self, bound=self.bound * factor)

    @property
    def mean(self) -> float:
        """0."""
        return 0.0

    @property
    def std(self) -> float:
        """bound / sqrt(3), in units of max|W|."""
        return self.bound / math.sqrt(3.0)
