"""The chain of transforms T(p) that a weight passes on its way to the array, and the last link: programming."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip


class Stage(IntEnum):
    """The fixed order of the chain."""

    MASK = 0
    QUANTISE = 1
    PROGRAM = 2
    LAYOUT = 3


@dataclass
class Stored:
    """One parameter on its way through the chain.

    Attributes:
        name: The parameter's name in the model.
        layer: The module that holds it.
        value: The running value; autograd leads from it back to the clean parameter.
        mask: True where a device exists, of the value's shape; None when nothing was pruned.
    """

    name: str
    layer: nn.Module
    value: Tensor
    mask: Tensor | None = None


class Transform(ABC):
    """One link of the chain.

    Attributes:
        stage: Its place in the order.
        mapping: Which parameters it acts on.
    """

    stage: ClassVar[Stage]

    def __init__(self, mapping: Mapping | None = None) -> None:
        self.mapping = mapping or Mapping()

    @property
    def is_null(self) -> bool:
        """Whether the transform changes no value at all, so that the swap can be skipped."""
        return False

    @abstractmethod
    def apply(self, stored: Stored) -> None:
        """Replace ``stored.value`` (and ``stored.mask``); never change a tensor in place."""


class Program(Transform):
    """Write the value into the devices of one chip: value + deviation.

    The deviation is a constant for autograd, so the gradient of the clean parameter is the gradient at the deviated
    point.

    Args:
        chip: The chip that is written.
    """

    stage = Stage.PROGRAM

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip.mapping)
        self.chip = chip

    @property
    def is_null(self) -> bool:
        """Whether the chip's variation is null."""
        return self.chip.variation.is_null

    def apply(self, stored: Stored) -> None:
        """Add the chip's deviation; pruned weights deviate only if the mapping stores them."""
        value = stored.value
        # Half-precision weights are deviated in float32 and rounded once; float32 and float64 stay what they are.
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        deviated = self.chip.deviate(stored.name, wide, self.numbers(stored)).to(value.dtype)
        if stored.mask is not None and self.mapping.pruned == "absent":
            deviated = torch.where(stored.mask, deviated, value)
        stored.value = deviated

    def numbers(self, stored: Stored) -> Any:
        """The chip's random numbers for one parameter."""
        return self.chip.draw(stored.name, stored.value)


class ChannelsLast(Transform):
    """Lay 4-D weights out channels-last, which makes CPU convolutions about twice as fast; values are unchanged."""

    stage = Stage.LAYOUT

    def apply(self, stored: Stored) -> None:
        """Convert convolution weights only."""
        if stored.value.ndim == 4:
            stored.value = stored.value.contiguous(memory_format=torch.channels_last)
