"""The chain of transforms T(p) that a weight passes on its way to the array, and the last link: programming."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
    CIRCUIT = 3
    LAYOUT = 4


@dataclass
class Stored:
    """One parameter on its way through the chain.

    Attributes:
        name: The parameter's name in the model.
        layer: The module that holds it.
        value: The running value; autograd leads from it back to the clean parameter.
        mask: True where a device exists, of the value's shape; None when nothing was pruned.
        read_std: Std of the error of a single reading, broadcastable to the value; None when all readings are alike.
    """

    name: str
    layer: nn.Module
    value: Tensor
    mask: Tensor | None = None
    read_std: Tensor | None = None


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

    Attributes:
        chip: The chip that is written.
        readings: How often it was read.

    Args:
        chip: The chip that is written.
    """

    stage = Stage.PROGRAM

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip.mapping)
        self.chip = chip
        self.readings = 0

    @property
    def is_null(self) -> bool:
        """Whether the chip's variation is null."""
        return self.chip.variation.is_null

    def apply(self, stored: Stored) -> None:
        """Add the chip's deviation; pruned weights deviate only if the mapping stores them."""
        value = stored.value
        # Half-precision weights are deviated in float32 and rounded once; float32 and float64 stay what they are.
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        numbers = self.numbers(stored)
        deviated = self.chip.deviate(stored.name, wide, numbers).to(value.dtype)
        stored.read_std = self.chip.read_std(stored.name, wide, numbers)
        if stored.mask is not None and self.mapping.pruned == "absent":
            deviated = torch.where(stored.mask, deviated, value)
            if stored.read_std is not None:
                stored.read_std = torch.where(stored.mask, stored.read_std, 0.0)
        stored.value = deviated

    def read(self, everything: Sequence[Stored]) -> list[Tensor]:
        """What one reading of the chip gives, after the whole chain.

        Args:
            everything: What the chain made of all parameters; not changed, as it may be kept for the next reading.
        """
        device = everything[0].value.device
        generator = self.chip.reading(self.readings, device)
        self.readings += 1
        return [_read(stored, generator) for stored in everything]

    def numbers(self, stored: Stored) -> Any:
        """The chip's random numbers for one parameter."""
        return self.chip.draw(stored.name, stored.value)


def _read(stored: Stored, generator: torch.Generator) -> Tensor:
    value, std = stored.value, stored.read_std
    if std is None:
        return value
    normal = torch.randn(value.shape, generator=generator, device=generator.device)
    return value + (normal.to(value.device) * std).to(value.dtype)


class ChannelsLast(Transform):
    """Lay 4-D weights out channels-last, which makes CPU convolutions about twice as fast; values are unchanged."""

    stage = Stage.LAYOUT

    def apply(self, stored: Stored) -> None:
        """Convert convolution weights only."""
        if stored.value.ndim == 4:
            stored.value = stored.value.contiguous(memory_format=torch.channels_last)
