"""The interface of every device-variation model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import Field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Generator, Tensor

if TYPE_CHECKING:
    from lightning_cim.variation.conductance import Device
    from lightning_cim.variation.device_array import DeviceArray
    from lightning_cim.variation.encoding import Encoding

SigmaRef = Literal["weight", "full_scale", "lsb"]


class Variation(ABC):
    """How the value that devices store deviates from its target.

    A variation knows nothing of models or chips: given a target tensor and a random generator it returns one deviation
    of every element, in the target's own units. ``a + b`` composes two causes.
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

    def redraw(self, shape: torch.Size, numbers: Any, generator: Generator) -> Any:
        """The random numbers of another write of the same devices.

        Args:
            shape: The weight's shape.
            numbers: Those of an earlier write.
            generator: Source of randomness.

        Returns:
            As :meth:`draw`. What belongs to a device stays what it was in ``numbers``; what differs from cycle to cycle
            is drawn anew, which is all of it unless a variation says otherwise.
        """
        return self.draw(shape, generator)

    def rewritten(self, weight: Tensor, numbers: Any, where: Tensor, error: Tensor) -> Tensor:
        """The deviation when some weights were written until they were good enough.

        Args:
            weight: Target values.
            numbers: What :meth:`draw` gave.
            where: bool, True for these weights.
            error: What writing left on them, in the weight's units.

        Returns:
            As :meth:`deviation`. Faults and time act on these weights as on all others.
        """
        return torch.where(where, error, self.deviation(weight, numbers))

    def read_std(self, weight: Tensor, numbers: Any) -> Tensor | None:
        """Std of the error of a single reading, which :meth:`deviation` does not contain.

        Args:
            weight: Target values.
            numbers: What :meth:`draw` gave.

        Returns:
            float32, broadcastable to the weight's shape and in its units; None where all readings are alike.
        """
        return None

    def at(self, seconds: float) -> Variation:
        """The same devices so long after they were written; the same where time changes nothing.

        Args:
            seconds: Since programming, > 0.
        """
        return self

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

        Of errors of writing only, see :attr:`written`.

        Args:
            weight: Target values, any shape.

        Returns:
            float32, broadcastable to the weight's shape; one number where all devices of a tensor are alike.
        """
        return (max_abs(weight) * self.std) ** 2

    @property
    def devices(self) -> tuple[Device, Encoding] | None:
        """Which devices hold a weight, for a variation that says so."""
        return None

    @property
    def per_device(self) -> Variation:
        """The same variation with a number of its own for each device, where it knows them."""
        return self

    def write(self, devices: DeviceArray, weight: Tensor, numbers: Any) -> None:
        """Add the errors of writing to what devices hold."""
        devices.held = devices.held + devices.errors_of(self.deviation(weight, numbers))

    @property
    def causes(self) -> tuple[Variation, ...]:
        """What the variation is composed of: itself, unless it is a sum."""
        return (self,)

    @property
    def written(self) -> Variation:
        """The part that is an error of writing, which writing again can repair; the rest is faults, time, reading."""
        return self

    def written_numbers(self, numbers: Any) -> Any:
        """Of the numbers that :meth:`draw` gave, those of :attr:`written`."""
        return numbers

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

    def __add__(self, other: Variation) -> Variation:
        if not isinstance(other, Variation):
            return NotImplemented
        from lightning_cim.variation.composed import Composed  # which is made of variations

        return Composed((*self.causes, *other.causes))


def max_abs(weight: Tensor) -> Tensor:
    """Largest magnitude of a tensor as a 0-dim float32 tensor on its device; 0 for an empty tensor.

    ``aminmax`` is one pass over memory; infinity norms cost about twenty times as much on a CPU.
    """
    if weight.numel() == 0:
        return torch.zeros((), device=weight.device)
    low, high = torch.aminmax(weight.detach())
    return torch.maximum(high, -low).float()
