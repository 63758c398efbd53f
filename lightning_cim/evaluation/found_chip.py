"""A chip whose deviations were searched for instead of drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lightning_cim.chip.population import Chip
from lightning_cim.variation.base import max_abs


@dataclass(frozen=True, eq=False)
class FoundChip(Chip):
    """A chip with given deviations. It works wherever a drawn chip does: ``on_chip``, ``chip_weights``, export.

    Like every chip it is relative: the deviations scale with the weights that it is put on.

    Attributes:
        deviations: dW / max|W| by parameter name, each of its parameter's shape.
    """

    deviations: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def draw(self, name: str, weight: Tensor) -> Tensor:
        """The relative deviations of one parameter.

        Raises:
            ValueError: The chip was found for another network.
        """
        found = self.deviations.get(name)
        if found is None or found.shape != weight.shape:
            what = "none" if found is None else f"those of shape {tuple(found.shape)}"
            raise ValueError(
                f"the found chip has {what} for parameter {name!r} of shape {tuple(weight.shape)}: it was found for"
                " another network or mapping"
            )
        return found

    def deviate(self, name: str, weight: Tensor, numbers: Tensor) -> Tensor:
        """The weight plus its deviation; autograd leads to both."""
        return torch.addcmul(weight, numbers.to(weight.device, weight.dtype), max_abs(weight).to(weight.dtype))

    def deviation(self, name: str, weight: Tensor) -> Tensor:
        """dW of one parameter: float32, of the shape and device of ``weight``."""
        return self.draw(name, weight).to(weight.device, torch.float32) * max_abs(weight)
