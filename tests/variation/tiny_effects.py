"""The smallest effects of each kind, to see what a sum makes of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from lightning_cim.variation.effect import DeviceEffect, Order


@dataclass(frozen=True)
class Fade(DeviceEffect):
    """Every conductance times ``keep``."""

    keep: float
    order: ClassVar[Order] = Order.DRIFT

    def draw_devices(self, shape, generator):
        return None

    def act(self, devices, numbers):
        devices.held = devices.held * self.keep

    def scaled(self, factor):
        return Fade(1.0 + factor * (self.keep - 1.0))

    def at(self, seconds):
        return Fade(self.keep**seconds)


@dataclass(frozen=True)
class Full(DeviceEffect):
    """A share of devices is at g_max, whatever was written."""

    share: float
    order: ClassVar[Order] = Order.FAULT

    def draw_devices(self, shape, generator):
        return torch.rand(shape, generator=generator)

    def act(self, devices, numbers):
        full = torch.full_like(devices.held, devices.device.g_max)
        devices.held = torch.where(numbers < self.share, full, devices.held)

    def scaled(self, factor):
        return Full(self.share * factor)

    @property
    def is_null(self):
        return self.share == 0.0


@dataclass(frozen=True)
class Reading(DeviceEffect):
    """A reading whose std is relative to what the device holds."""

    relative: float
    order: ClassVar[Order] = Order.READ

    def draw_devices(self, shape, generator):
        return None

    def device_read_std(self, devices):
        return self.relative * devices.held

    def scaled(self, factor):
        return Reading(self.relative * factor)
