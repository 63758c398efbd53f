"""Several causes of deviation on one weight."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import Variation
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_array import UNIT_DEVICE, DeviceArray
from lightning_cim.variation.effect import DeviceEffect
from lightning_cim.variation.encoding import Encoding

LEVELS, REPEATS = 65, 2048
"""Evenly spread weights, and devices for each, by which nominal moments are simulated."""


@dataclass(frozen=True)
class Composed(Variation):
    """Several causes of deviation; what ``a + b`` makes.

    Errors of writing add up. With faults, drift or read noise among the parts, every device of a weight is simulated:
    it is written, then it fails, drifts and is read, in this order whatever the order of the sum. The devices are those
    of the one part that knows them, such as :class:`~lightning_cim.Measured`; a sliced Gaussian has differential
    pairs of its slices, and any other variation one pair of relative conductance for each weight.

    Attributes:
        parts: The variations. Each draws in turn from the same generator, so the first part deviates exactly as it
            would alone (a ``Measured`` one, next to effects: as it would in the mode ``"per_slice"``).

    Raises:
        ValueError: No part, or two that put the weight on different devices.

    Example:
        >>> from lightning_cim import Gaussian
        >>> both = Gaussian(sigma=0.03) + Gaussian(sigma=0.04)
        >>> round(both.std, 6)
        0.05
    """

    parts: tuple[Variation, ...]

    def __post_init__(self) -> None:
        parts = tuple(self.parts)
        if not parts or not all(isinstance(part, Variation) for part in parts):
            raise ValueError(f"Composed needs one or more variations, got {self.parts!r}")
        parts = tuple(cause for part in parts for cause in part.causes)
        if any(isinstance(part, DeviceEffect) for part in parts):
            parts = tuple(part.per_device for part in parts)
        object.__setattr__(self, "parts", parts)
        if self._effects:
            layout = self._layout  # two kinds of devices are refused here
            if any(part.devices is not None for part in self.parts):  # else a later sum may say more
                for effect in self._effects:
                    effect.check(*layout)

    def __str__(self) -> str:
        return " + ".join(map(str, self.parts))

    def draw(self, shape: torch.Size, generator: Generator) -> tuple[Any, ...]:
        """One draw of each part, in turn."""
        _, encoding = self._layout if self._effects else (UNIT_DEVICE, Encoding())
        of_devices = torch.Size((encoding.slices, encoding.columns, *shape))
        return tuple(
            part.draw_devices(of_devices, generator) if isinstance(part, DeviceEffect) else part.draw(shape, generator)
            for part in self.parts
        )

    def redraw(self, shape: torch.Size, numbers: tuple[Any, ...], generator: Generator) -> tuple[Any, ...]:
        """Another write of the same devices, part by part."""
        return tuple(part.redraw(shape, own, generator) for part, own in zip(self.parts, numbers, strict=True))

    def deviation(self, weight: Tensor, numbers: tuple[Any, ...]) -> Tensor:
        """The sum of all errors of writing, and what faults and time made of it."""
        if self._effects:
            return self._simulated(weight, numbers).deviation()
        first, *others = [part.deviation(weight, own) for part, own in zip(self.parts, numbers, strict=True)]
        for other in others:
            first = first + other
        return first

    def rewritten(self, weight: Tensor, numbers: tuple[Any, ...], where: Tensor, error: Tensor) -> Tensor:
        """The deviation when the weights at ``where`` were written until only ``error`` was left."""
        if not self._effects:
            return super().rewritten(weight, numbers, where, error)
        return self._simulated(weight, numbers, where, error).deviation()

    def read_std(self, weight: Tensor, numbers: tuple[Any, ...]) -> Tensor | None:
        """Std of one reading of the weight."""
        if not any(type(part).device_read_std is not DeviceEffect.device_read_std for part in self._effects):
            return None
        devices = self._simulated(weight, numbers)
        found = [effect.device_read_std(devices) for effect in self._effects]
        variances = [std.square() for std in found if std is not None]
        return devices.spread(torch.stack(variances).sum(0).sqrt_()) if variances else None

    def at(self, seconds: float) -> Composed:
        """Every part so long after programming."""
        return Composed(tuple(part.at(seconds) for part in self.parts))

    def variance(self, weight: Tensor) -> Tensor:
        """Sum of the variances of all errors of writing."""
        found = [part.variance(weight) for part in self.parts if not isinstance(part, DeviceEffect)]
        total = torch.zeros((), device=weight.device)
        for variance in found:
            total = total + variance
        return total

    def scaled(self, factor: float) -> Composed:
        """Scale every part."""
        return Composed(tuple(part.scaled(factor) for part in self.parts))

    @property
    def mean(self) -> float:
        """Sum of the parts' means, in units of max|W|.

        With faults or drift among them, nominal: simulated for weights spread evenly between -max|W| and max|W|.
        """
        return _nominal(self)[0] if self._effects else sum(part.mean for part in self.parts)

    @property
    def std(self) -> float:
        """Root of the summed variances, in units of max|W|; with faults or drift nominal, as :attr:`mean`."""
        return _nominal(self)[1] if self._effects else float(sum(part.std**2 for part in self.parts) ** 0.5)

    @property
    def is_null(self) -> bool:
        """Whether every part is null."""
        return all(part.is_null for part in self.parts)

    @property
    def written(self) -> Variation:
        """The sum without faults, time and reading."""
        if not self._effects:
            return self
        parts = tuple(part for part in self.parts if not isinstance(part, DeviceEffect))
        return Composed(parts) if parts else Exact()

    def written_numbers(self, numbers: tuple[Any, ...]) -> tuple[Any, ...]:
        """The numbers of these parts."""
        return tuple(own for part, own in zip(self.parts, numbers, strict=True) if not isinstance(part, DeviceEffect))

    @property
    def causes(self) -> tuple[Variation, ...]:
        """The parts."""
        return self.parts

    @property
    def _layout(self) -> tuple[Device, Encoding]:
        known = [part.devices for part in self.parts if part.devices is not None]
        if not known:
            return UNIT_DEVICE, Encoding()
        if self._effects and any(other != known[0] for other in known):
            parts = " and ".join(str(part) for part in self.parts if part.devices is not None)
            raise ValueError(f"a weight lies on one kind of device, but {parts} mean different ones; use one of them")
        return known[0]

    @property
    def _effects(self) -> list[DeviceEffect]:
        return sorted((part for part in self.parts if isinstance(part, DeviceEffect)), key=lambda part: part.order)

    def _simulated(
        self, weight: Tensor, numbers: tuple[Any, ...], where: Tensor | None = None, error: Tensor | None = None
    ) -> DeviceArray:
        """The weight's devices after everything that happens to them."""
        devices = DeviceArray(weight, *self._layout)
        for part, own in zip(self.parts, numbers, strict=True):
            if not isinstance(part, DeviceEffect):
                part.write(devices, weight, own)
        if where is not None and error is not None:
            devices.held = torch.where(where, devices.targets + devices.errors_of(error), devices.held)
        for part, own in sorted(zip(self.parts, numbers, strict=True), key=lambda pair: _order(pair[0])):
            if isinstance(part, DeviceEffect):
                part.act(devices, own)
        return devices


@dataclass(frozen=True)
class Exact(Variation):
    """Writing without any error."""

    def draw(self, shape: torch.Size, generator: Generator) -> None:
        """Nothing is random."""

    def deviation(self, weight: Tensor, numbers: Any) -> Tensor:
        """Zeros."""
        return torch.zeros_like(weight, dtype=torch.float32)

    def scaled(self, factor: float) -> Exact:
        """The same."""
        return self

    @property
    def mean(self) -> float:
        """0."""
        return 0.0

    @property
    def std(self) -> float:
        """0."""
        return 0.0


def _order(part: Variation) -> int:
    return part.order if isinstance(part, DeviceEffect) else -1


@lru_cache(maxsize=64)
def _nominal(variation: Composed) -> tuple[float, float]:
    """Mean, and root mean variance, over evenly spread weights."""
    weight = torch.linspace(-1.0, 1.0, LEVELS).repeat(REPEATS, 1)
    # Repeats stand for independent weights, so lines that several of them share must not fail as one.
    parts = [part.marginal if isinstance(part, DeviceEffect) else part for part in variation.parts]
    deviation = Composed(tuple(parts)).sample(weight, torch.Generator().manual_seed(0)).double()
    return float(deviation.mean()), float(deviation.var(0).mean().sqrt())
