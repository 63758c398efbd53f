"""The interface of every device-variation model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import Generator, Tensor

SigmaRef = Literal["weight", "full_scale", "lsb"]


class Variation(ABC):
    """How the value that devices store deviates from its target.

    A variation knows nothing of models or chips: given a target tensor and a random generator it returns one deviation
    of every element, in the target's own units. ``a + b`` composes two independent causes.
    """

    @abstractmethod
    def draw(self, shape: torch.Size, generator: Generator) -> Any:
        """The random numbers behind one deviation, which do not depend on the weight.

        Args:
            shape: The weight's shape.
            generator: Source of randomness. Numbers are drawn on *its* device, so that a CPU generator gives the same
                numbers for a weight on any device.

        Returns:
            A tensor or a tuple of draws, for :meth:`deviation` and :meth:`deviate`.
        """

    @abstractmethod
    def deviation(self, weight: Tensor, numbers: Any) -> Tensor:
        """The deviation that random numbers make of a weight.

        Args:
            weight: Target values, any shape. Its largest magnitude is the scale of relative deviations.
            numbers: What :meth:`draw` gave for this shape; not changed.

        Returns:
            float32 tensor of the shape and device of ``weight``, detached from autograd.
        """

    def deviate(self, weight: Tensor, numbers: Any) -> Tensor:
        """The weight plus its deviation, float32 or wider, with the gradient of the weight itself."""
        return weight + self.deviation(weight.detach(), numbers)

    def sample(self, weight: Tensor, generator: Generator) -> Tensor:
        """Draw one deviation for each element of ``weight``; see :meth:`draw` and :meth:`deviation`."""
        return self.deviation(weight.detach(), self.draw(weight.shape, generator))

    @abstractmethod
    def scaled(self, factor: float) -> Variation:
        """The same variation with every deviation multiplied by ``factor`` (used by warm-up schedules).

        Args:
            factor: At least 0.
        """

    @property
    @abstractmethod
    def mean(self) -> float:
        """Expected deviation in units of the tensor's max|W|."""

    @property
    @abstractmethod
    def std(self) -> float:
        """Standard deviation of the deviation in units of the tensor's max|W|."""

    def variance(self, weight: Tensor) -> Tensor:
        """Variance of each element's deviation, in the weight's units squared: what selective write-verify ranks by.

        Args:
            weight: Target values, any shape.

        Returns:
            float32, broadcastable to the weight's shape; one number where all devices of a tensor are alike.
        """
        return (max_abs(weight) * self.std) ** 2

    @property
    def is_null(self) -> bool:
        """Whether every deviation is exactly zero, so that drawing can be skipped."""
        return self.mean == 0.0 and self.std == 0.0

    def __str__(self) -> str:
        """The constructor call, without the arguments that have their default values."""
        items: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        given = [
            f"{item.name}={getattr(self, item.name)!r}" for item in items if getattr(self, item.name) != item.default
        ]
        return f"{type(self).__name__}({', '.join(given)})"

    def __add__(self, other: Variation) -> Composed:
        if not isinstance(other, Variation):
            return NotImplemented
        return Composed((*_parts(self), *_parts(other)))


@dataclass(frozen=True)
class Composed(Variation):
    """Several independent variations, one after another; what ``a + b`` makes.

    Attributes:
        parts: The variations; their deviations add up. Each draws in turn from the same generator, so the first part
            deviates exactly as it would alone.

    Example:
        >>> from lightning_cim import Gaussian
        >>> both = Gaussian(sigma=0.03) + Gaussian(sigma=0.04)
        >>> round(both.std, 6)
        0.05
    """

    parts: tuple[Variation, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        if not self.parts or not all(isinstance(part, Variation) for part in self.parts):
            raise ValueError(f"Composed needs one or more variations, got {self.parts!r}")

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))

    def draw(self, shape: torch.Size, generator: Generator) -> tuple[Any, ...]:
        """One draw of each part, in turn."""
        return tuple(part.draw(shape, generator) for part in self.parts)

    def deviation(self, weight: Tensor, numbers: tuple[Any, ...]) -> Tensor:
        """Sum of the parts' deviations."""
        first, *others = [part.deviation(weight, own) for part, own in zip(self.parts, numbers, strict=True)]
        for other in others:
            first = first + other
        return first

    def variance(self, weight: Tensor) -> Tensor:
        """Sum of the parts' variances."""
        first, *others = [part.variance(weight) for part in self.parts]
        for other in others:
            first = first + other
        return first

    def scaled(self, factor: float) -> Composed:
        """Scale every part."""
        return Composed(tuple(part.scaled(factor) for part in self.parts))

    @property
    def mean(self) -> float:
        """Sum of the parts' means, in units of max|W|."""
        return sum(part.mean for part in self.parts)

    @property
    def std(self) -> float:
        """Root of the summed variances, in units of max|W|."""
        return float(sum(part.std**2 for part in self.parts) ** 0.5)

    @property
    def is_null(self) -> bool:
        """Whether every part is null."""
        return all(part.is_null for part in self.parts)


def _parts(variation: Variation) -> tuple[Variation, ...]:
    return variation.parts if isinstance(variation, Composed) else (variation,)


def max_abs(weight: Tensor) -> Tensor:
    """Largest magnitude of a tensor as a 0-dim float32 tensor on its device; 0 for an empty tensor.

    ``aminmax`` is one pass over memory; infinity norms cost about twenty times as much on a CPU.
    """
    if weight.numel() == 0:
        return torch.zeros((), device=weight.device)
    low, high = torch.aminmax(weight.detach())
    return torch.maximum(high, -low).float()
