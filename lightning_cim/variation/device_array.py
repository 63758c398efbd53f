"""The devices that hold one weight tensor: what they were aimed at, and what they hold."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_cim.variation.base import max_abs
from lightning_cim.variation.conductance import Device, Polynomial
from lightning_cim.variation.encoding import Encoding

UNIT_DEVICE = Device("relative conductance", "", 0.0, 1.0, sigma=Polynomial((0.0,)))
"""A device of relative conductance between 0 and 1, without a law of its own."""


class DeviceArray:
    """The devices of one weight tensor. Faults, time and readings act on these; the weight is decoded at the end.

    Every tensor here is float32 of shape (slices, columns, *shape of the weight), in the device's unit.

    Attributes:
        device: Range of conductance.
        encoding: Which devices hold a weight.
        targets: What the devices were aimed at.
        levels: What laws that depend on the conductance go by: the targets, or where a device is stuck.
        held: What the devices hold now.
        gain: Digital factor on the decoded weight, broadcastable to its shape; None: 1.

    Args:
        weight: Target values, any shape, floating.
        device: Range of conductance.
        encoding: Which devices hold a weight.

    Example:
        >>> from lightning_cim.variation.encoding import Encoding
        >>> devices = DeviceArray(torch.tensor([1.0, -0.5]), UNIT_DEVICE, Encoding())
        >>> devices.held[0]
        tensor([[1.0000, 0.0000],
                [0.0000, 0.5000]])
        >>> devices.held = devices.held * 0.5
        >>> devices.deviation()
        tensor([-0.5000,  0.2500])
    """

    def __init__(self, weight: Tensor, device: Device, encoding: Encoding) -> None:
        self.device, self.encoding = device, encoding
        self._weight = weight.detach().float()
        self._largest = max_abs(weight)  # of a tensor of zeros: 0, so that nothing deviates
        self._divisor = torch.where(self._largest > 0, self._largest, 1.0)
        self.targets = encoding.conductances(self._weight, self._divisor, device)
        self.levels = self.held = self.targets
        self.gain: Tensor | None = None

    def relative_to(self, reference: float | None, unit: str) -> Tensor:
        """``levels`` over a conductance; see :meth:`reference`."""
        return self.levels / self.reference(reference, unit)

    def reference(self, reference: float | None, unit: str) -> float:
        """A conductance that was given in some unit: g_max without one, and on devices of relative conductance.

        Raises:
            ValueError: The devices have another unit.
        """
        if reference is None or not self.device.unit:
            return self.device.g_max
        return reference * self.unit_of(unit)

    def unit_of(self, unit: str) -> float:
        """What one of a unit is here: 1 in the device's own, g_max - g_min where it is empty.

        Raises:
            ValueError: The devices have another unit.
        """
        if not unit:
            return self.device.span
        if unit != self.device.unit:
            has = f"are in {self.device.unit}" if self.device.unit else "have relative conductances"
            raise ValueError(
                f"this law was measured in {unit}, but the devices ({self.device.name}) {has}; add it to the"
                " Measured.preset of the same name"
            )
        return 1.0

    def errors_of(self, deviation: Tensor) -> Tensor:
        """Errors of the devices that make up a deviation of the weight.

        The device that holds the weight's sign and its most significant bits takes all of it: it has most of the
        variance of independent devices, too.

        Args:
            deviation: Of the weight's shape, in its units.

        Returns:
            In the device's unit; 0 for the other devices.
        """
        errors = torch.zeros_like(self.targets)
        unit = self.device.span / (self.encoding.gain * self.encoding.places[-1])
        own = deviation.to(self._weight) / self._divisor * unit
        if self.encoding.scheme == "offset":
            errors[-1, 0] = own
        else:
            positive = self._weight >= 0
            errors[-1, 0] = torch.where(positive, own, 0.0)
            errors[-1, 1] = torch.where(positive, 0.0, -own)
        return errors

    def weight(self) -> Tensor:
        """What the devices stand for now, before the gain, in the weight's units."""
        return self._weight + self._error()

    def deviation(self) -> Tensor:
        """What the devices stand for now, behind the gain, minus the target weight."""
        error = self._error()
        return error if self.gain is None else self.gain * error + (self.gain - 1.0) * self._weight

    def spread(self, std: Tensor) -> Tensor:
        """Std of the weight's error, in its units, that independent errors of all devices make.

        Args:
            std: Of each device's error, in the device's unit.
        """
        variance = self.encoding.decode_variance(std.square(), self.device)
        std = variance.sqrt_().mul_(self._largest)
        return std if self.gain is None else std * self.gain

    def _error(self) -> Tensor:
        return self.encoding.decode_error(self.held - self.targets, self.device) * self._largest
