"""What happens to devices after they were written."""

from __future__ import annotations

from abc import abstractmethod
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from lightning_cim.variation.base import Variation
from lightning_cim.variation.conductance import Device
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.encoding import Encoding


class Order(IntEnum):
    """The order in which effects act, whatever the order in a sum."""

    FAULT = 0
    DRIFT = 1
    READ = 2


class DeviceEffect(Variation):
    """A cause that acts on what devices hold, whatever wrote them: a fault, time, a reading.

    Composed with ``+`` it acts on the devices of the variation that knows them (:class:`~lightning_cim.Measured`, or a
    Gaussian that is sliced), else on a differential pair of devices of relative conductance for each weight.

    Attributes:
        order: When it acts.
    """

    order: ClassVar[Order]

    @abstractmethod
    def draw_devices(self, shape: torch.Size, generator: Generator) -> Any:
        """The random numbers of all devices.

        Args:
            shape: (slices, columns, *shape of the weight).
            generator: Source of randomness; as in :meth:`Variation.draw`.
        """

    def check(self, device: Device, encoding: Encoding) -> None:
        """Raise a ValueError if the effect cannot act on such devices; called as soon as a sum knows them.

        Args:
            device: Range of conductance.
            encoding: Which devices hold a weight.
        """

    def act(self, devices: DeviceArray, numbers: Any) -> None:
        """Replace ``devices.held`` (and ``levels``, ``gain``); never change a tensor in place."""

    def device_read_std(self, devices: DeviceArray) -> Tensor | None:
        """Std of one reading of each device, in the device's unit; None where all readings are alike."""
        return None

    def draw(self, shape: torch.Size, generator: Generator) -> Any:
        """The random numbers of all devices of a weight that nothing else disturbs."""
        return self._alone.draw(shape, generator)

    def redraw(self, shape: torch.Size, numbers: Any, generator: Generator) -> Any:
        """The same numbers: they belong to the devices."""
        return numbers

    def deviation(self, weight: Tensor, numbers: Any) -> Tensor:
        """What the effect alone makes of a weight's devices."""
        return self._alone.deviation(weight, numbers)

    def read_std(self, weight: Tensor, numbers: Any) -> Tensor | None:
        """Std of the error of a single reading."""
        return self._alone.read_std(weight, numbers)

    def variance(self, weight: Tensor) -> Tensor:
        """0: nothing of this is an error of writing."""
        return self._alone.variance(weight)

    @property
    def mean(self) -> float:
        """Nominal, by simulation: see :attr:`Composed.mean`."""
        return self._alone.mean

    @property
    def std(self) -> float:
        """Nominal, by simulation: see :attr:`Composed.std`."""
        return self._alone.std

    @property
    def marginal(self) -> Variation:
        """What a weight sees of the effect when the others are not looked at: the effect itself, or a simpler one."""
        return self

    @property
    def is_null(self) -> bool:
        """False: an effect may act where the nominal moments are 0, such as a decay of pairs or a reading."""
        return False

    @property
    def written(self) -> Variation:
        """No error of writing."""
        return self._alone.written

    def written_numbers(self, numbers: Any) -> Any:
        """None."""
        return self._alone.written_numbers(numbers)

    def rewritten(self, weight: Tensor, numbers: Any, where: Tensor, error: Tensor) -> Tensor:
        """The effect on weights that hold an error of their own."""
        return self._alone.rewritten(weight, numbers, where, error)

    @property
    def _alone(self) -> Variation:
        from lightning_cim.variation.composed import Composed  # which is made of effects

        return Composed((self,))
