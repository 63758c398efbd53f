"""Variation from device to device, which a chip keeps, beside that from one write to the next."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import SigmaRef, Variation
from lightning_cim.variation.composed import Composed
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.effect import DeviceEffect
from lightning_cim.variation.encoding import Encoding


@dataclass(frozen=True)
class DeviceAndCycle(Variation):
    """An error of writing in two parts: device to device (D2D) and cycle to cycle (C2C).

    The deviation is the sum of both. The first part belongs to the device: a chip keeps it however often it is written.
    The second one is drawn anew at every write. A single write tells them from the sum ``d2d + c2c`` in nothing; they
    differ where devices are written again, as :meth:`lightning_cim.Chip.rewritten` does. In a plain sum all of it is
    drawn anew.

    Attributes:
        d2d: What is the device's own: one variation. The first in turn to draw, so that it deviates exactly as it
            would alone.
        c2c: What differs from write to write: one variation, for devices of the same kind.

    Raises:
        ValueError: A sum, a fault or an effect of time or reading, or two variations that put the weight on different
            devices.

    Example:
        >>> from lightning_cim import Chip, Gaussian
        >>> both = DeviceAndCycle(d2d=Gaussian(0.03), c2c=Gaussian(0.04))
        >>> round(both.std, 6)
        0.05
        >>> weight, chip = torch.ones(10_000), Chip(both, seed=0, index=0)
        >>> change = chip.rewritten().deviation("w", weight) - chip.deviation("w", weight)
        >>> round(change.std().item() / 2**0.5, 2)  # without the part that is the device's own
        0.04
    """

    d2d: Variation
    c2c: Variation

    def __post_init__(self) -> None:
        for name, part in self._named:
            if not isinstance(part, Variation):
                raise ValueError(
                    f"DeviceAndCycle: {name} must be a Variation such as Gaussian(sigma=0.1), got {part!r}"
                )
            if isinstance(part, Composed | DeviceEffect):
                raise ValueError(
                    f"DeviceAndCycle: {name} must be one error of writing, got {part}; add other causes, faults, drift"
                    " and read noise to the DeviceAndCycle with +"
                )
        known = [part.devices for _, part in self._named if part.devices is not None]
        if any(devices != known[0] for devices in known):
            raise ValueError(
                f"a weight lies on one kind of device, but d2d={self.d2d} and c2c={self.c2c} mean different ones"
            )

    def __str__(self) -> str:
        return f"DeviceAndCycle(d2d={self.d2d}, c2c={self.c2c})"

    def draw(self, shape: torch.Size, generator: Generator) -> tuple[Any, Any]:
        """The numbers of the devices, and those of their first write."""
        return self.d2d.draw(shape, generator), self.c2c.draw(shape, generator)

    def redraw(self, shape: torch.Size, numbers: tuple[Any, Any], generator: Generator) -> tuple[Any, Any]:
        """The numbers of the same devices, and those of another write."""
        return numbers[0], self.c2c.draw(shape, generator)

    def deviation(self, weight: Tensor, numbers: tuple[Any, Any]) -> Tensor:
        """The sum of both deviations."""
        return self.d2d.deviation(weight, numbers[0]) + self.c2c.deviation(weight, numbers[1])

    def write(self, devices: DeviceArray, weight: Tensor, numbers: tuple[Any, Any]) -> None:
        """Add both errors to what devices hold."""
        self.d2d.write(devices, weight, numbers[0])
        self.c2c.write(devices, weight, numbers[1])

    def at(self, seconds: float) -> DeviceAndCycle:
        """Both parts so long after programming."""
        return DeviceAndCycle(self.d2d.at(seconds), self.c2c.at(seconds))

    def scaled(self, factor: float) -> DeviceAndCycle:
        """Both parts scaled."""
        return DeviceAndCycle(self.d2d.scaled(factor), self.c2c.scaled(factor))

    def variance(self, weight: Tensor) -> Tensor:
        """Sum of both variances."""
        return self.d2d.variance(weight) + self.c2c.variance(weight)

    @property
    def mean(self) -> float:
        """Sum of both means, in units of max|W|."""
        return self.d2d.mean + self.c2c.mean

    @property
    def std(self) -> float:
        """Root of the summed variances, in units of max|W|."""
        return math.hypot(self.d2d.std, self.c2c.std)

    @property
    def is_null(self) -> bool:
        """Whether both parts are null."""
        return self.d2d.is_null and self.c2c.is_null

    @property
    def devices(self) -> tuple[Device, Encoding] | None:
        """Those of the part that knows them."""
        return self.d2d.devices or self.c2c.devices

    @property
    def per_device(self) -> DeviceAndCycle:
        """Both parts with a number of their own for each device."""
        return DeviceAndCycle(self.d2d.per_device, self.c2c.per_device)

    @property
    def sigma_ref(self) -> SigmaRef:
        """What sigma is relative to, of the first part that has a sigma.

        Raises:
            AttributeError: Neither has one.
        """
        return self._convention("sigma_ref")  # type: ignore[no-any-return]

    @property
    def weight_bits(self) -> int | None:
        """Of the part that :attr:`sigma_ref` is of."""
        return self._convention("weight_bits")  # type: ignore[no-any-return]

    @property
    def device_bits(self) -> int | None:
        """Of the part that :attr:`sigma_ref` is of."""
        return self._convention("device_bits")  # type: ignore[no-any-return]

    def _convention(self, name: str) -> Any:
        part = self.d2d if hasattr(self.d2d, "sigma_ref") else self.c2c
        return getattr(part, name)

    @property
    def _named(self) -> tuple[tuple[str, Variation], ...]:
        return ("d2d", self.d2d), ("c2c", self.c2c)
