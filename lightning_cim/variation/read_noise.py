"""What differs from one reading of a device to the next."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from lightning_cim.variation.conductance import Curve, SaturatingExponential
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.device_file import records
from lightning_cim.variation.effect import DeviceEffect, Order
from lightning_cim.variation.laws import Law, law_of
from lightning_cim.variation.times import seconds


class ReadLaw(ABC):
    """Std of a reading of each device."""

    @abstractmethod
    def std(self, devices: DeviceArray, time: float) -> Tensor:
        """In the device's unit, of the devices' shape, so many seconds after programming."""


@dataclass(frozen=True)
class OneOverF(ReadLaw):
    """1/f noise: g q(r) sqrt(ln((t + t_read) / (2 t_read))), r = g / reference.

    Attributes:
        q: Relative noise by relative conductance.
        t_read: Duration of a reading in seconds, > 0.
        reference: Conductance to which q is relative; None: the device's g_max.
        unit: Of ``reference``; empty without one.
    """

    q: Law
    t_read: float
    reference: float | None = None
    unit: str = ""

    def std(self, devices: DeviceArray, time: float) -> Tensor:
        """Of conductances above 0."""
        held = devices.held.clamp(min=0.0)
        relative = held / devices.reference(self.reference, self.unit)
        return self.q(relative).mul_(held).mul_(_growth(time, self.t_read))


@dataclass(frozen=True)
class LogConductance(ReadLaw):
    """k log10(g) sqrt(ln((t + t_read) / (2 t_read))), and 0 for g below 1 unit.

    Attributes:
        k: In ``unit``.
        t_read: Duration of a reading in seconds, > 0.
        unit: Of g and k.
    """

    k: float
    t_read: float
    unit: str

    def std(self, devices: DeviceArray, time: float) -> Tensor:
        """Of conductances above 1 unit."""
        devices.unit_of(self.unit)
        return devices.held.clamp(min=1.0).log10_().mul_(self.k * _growth(time, self.t_read))


@dataclass(frozen=True)
class Curved(ReadLaw):
    """Any function of conductance, whatever the time.

    Attributes:
        curve: Std by conductance.
        unit: Of both.
    """

    curve: Curve
    unit: str

    def std(self, devices: DeviceArray, time: float) -> Tensor:
        """The curve."""
        devices.unit_of(self.unit)
        return self.curve(devices.held)


@dataclass(frozen=True)
class ReadNoise(DeviceEffect):
    """An independent error of every reading: each forward pass sees another one, on the same chip.

    Not part of what a chip stores, hence neither of :meth:`deviation` nor of exported weights: it is added when a model
    computes on a chip, once for each pass of a batch through the network.

    Attributes:
        sigma: Std of a reading over the device's g_max - g_min, >= 0, or a law of it. Typical: 0.01.
        time: Since programming, for laws that grow: seconds, or a text such as ``"1h"``; see :meth:`at`.
        scale: Factor on the noise; not 1 in warm-ups and sweeps only.

    Raises:
        ValueError: Numbers out of range, or devices in another unit.

    Example:
        >>> noise = ReadNoise(sigma=0.01)
        >>> weight = torch.tensor([1.0, 0.5])
        >>> noise.read_std(weight, noise.draw(weight.shape, torch.Generator()))  # sqrt(2) for the pair
        tensor([0.0141, 0.0141])
    """

    sigma: float | ReadLaw
    time: float | str = 1.0
    scale: float = 1.0
    order: ClassVar[Order] = Order.READ

    def __post_init__(self) -> None:
        object.__setattr__(self, "time", seconds(self.time))
        if not isinstance(self.sigma, ReadLaw) and not (math.isfinite(self.sigma) and self.sigma >= 0):
            raise ValueError(f"ReadNoise: sigma must be a finite number >= 0, got {self.sigma!r}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"ReadNoise: scale must be a finite number >= 0, got {self.scale!r}")

    @classmethod
    def preset(cls, name: str, time: float | str = 1.0, reference: float | None = None) -> ReadNoise:
        """The read noise of a published device, to be added to :meth:`Measured.preset` of the same name.

        Args:
            name: A device whose read noise was measured, such as ``"pcm-nandakumar2019"``.
            time: Since programming.
            reference: Conductance to which a relative law refers; default: that of the fit.

        Raises:
            ValueError: No such device, or none whose read noise was measured; names those that were.

        Example:
            >>> ReadNoise.preset("sonos").sigma.curve.amplitude
            12.58037
        """
        record = records("read_noise", name, needs=("q", "q_below", "k", "amplitude"))
        law, unit = record["read_noise"], record["conductance"]["unit"]
        if "k" in law:
            return cls(LogConductance(law["k"], law["t_read_s"], unit), time)
        if "amplitude" in law:
            return cls(Curved(SaturatingExponential(law["amplitude"], law["decay"]), unit), time)
        fitted = float(record["conductance"]["max"] if reference is None else reference)
        return cls(OneOverF(law_of(law, "q"), law["t_read_s"], fitted, unit), time)

    def draw_devices(self, shape: torch.Size, generator: Generator) -> None:
        """Nothing: a chip's readings are not part of the chip."""

    def device_read_std(self, devices: DeviceArray) -> Tensor:
        """Std of one reading of each device."""
        assert isinstance(self.time, float)
        if isinstance(self.sigma, ReadLaw):
            return self.sigma.std(devices, self.time).mul_(self.scale)
        return torch.full_like(devices.held, self.sigma * self.scale * devices.device.span)

    def at(self, seconds: float) -> ReadNoise:
        """The same devices so many seconds after programming."""
        return replace(self, time=seconds)

    def scaled(self, factor: float) -> ReadNoise:
        """The noise times ``factor``."""
        return replace(self, scale=self.scale * factor)

    @property
    def is_null(self) -> bool:
        """Whether readings have no error."""
        return self.scale == 0.0 or self.sigma == 0.0


def _growth(time: float, t_read: float) -> float:
    """sqrt(ln((t + t_read) / (2 t_read))); 0 within the first reading."""
    return math.sqrt(max(0.0, math.log((time + t_read) / (2.0 * t_read))))
