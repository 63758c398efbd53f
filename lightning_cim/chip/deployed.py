"""Chips of real use: one whose devices were read back, and one with a write-verified shared block."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim.chip.mapping import Mapping as WeightMapping
from lightning_cim.chip.mapping import _nearest
from lightning_cim.chip.population import Chip
from lightning_cim.chip.shared_block import WEIGHT
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import Gaussian

VERIFIED = Gaussian(sigma=0.03)
"""What write-verify leaves: a standard deviation of 0.03 max|W|."""


@dataclass(frozen=True)
class _ReadBack(Variation):
    """Deviations that were measured, so that their law is unknown."""

    def draw(self, shape: torch.Size, generator: torch.Generator) -> None:
        """Nothing is random any more."""

    def deviation(self, weight: Tensor, numbers: Any) -> Tensor:
        """Unknown without the parameter's name."""
        raise NotImplementedError("read-back deviations belong to named parameters: ask the chip")

    def scaled(self, factor: float) -> Variation:
        """Measured values have one size."""
        raise NotImplementedError("read-back deviations cannot be scaled")

    @property
    def mean(self) -> float:
        """Not known."""
        return math.nan

    @property
    def std(self) -> float:
        """Not known."""
        return math.nan


@dataclass(frozen=True)
class ReadBackChip(Chip):
    """A real chip: what its devices hold was read back after programming.

    Attributes:
        measured: The stored value of every weight on crossbars, by parameter name; other entries are ignored.

    Example:
        >>> from lightning_cim.chip.scope import on_chip
        >>> net = nn.Linear(2, 1, bias=False)
        >>> with on_chip(net, ReadBackChip(measured={"weight": torch.tensor([[3.0, 4.0]])})):
        ...     print(net(torch.ones(1, 2)).item())
        7.0
    """

    variation: Variation = _ReadBack()
    seed: int = 0
    index: int = 0
    measured: Mapping[str, Tensor] = field(default_factory=dict, compare=False, repr=False)

    def draw(self, name: str, weight: Tensor) -> None:
        """Nothing is random any more."""

    def deviate(self, name: str, weight: Tensor, numbers: Any) -> Tensor:
        """The measured values, with the gradient of the weight."""
        return self._of(name, weight) + (weight - weight.detach())

    def deviation(self, name: str, weight: Tensor) -> Tensor:
        """Measured minus target."""
        return (self._of(name, weight) - weight.detach()).float()

    def check(self, model: nn.Module) -> None:
        """See that every weight on crossbars was measured.

        Raises:
            ValueError: A weight is missing, has another shape or is not finite.
        """
        for target in self.mapping.resolve(model):
            parameter = target.sites[0].parameter
            assert parameter is not None
            if target.name == WEIGHT:
                continue
            found = self._of(target.name, parameter)
            if found.shape != parameter.shape or not bool(torch.isfinite(found).all()):
                raise ValueError(
                    f"the read-back values of {target.name!r} must be finite and of shape {tuple(parameter.shape)}, got"
                    f" {tuple(found.shape)} with {int((~torch.isfinite(found)).sum())} that are not finite"
                )

    def _of(self, name: str, weight: Tensor) -> Tensor:
        if name not in self.measured:
            raise ValueError(f"the read-back chip has no values of {name!r}{_nearest(name, list(self.measured))}")
        return self.measured[name].to(weight)


@dataclass(frozen=True)
class DeployedChip(Chip):
    """A chip that holds the network as it was programmed, and the shared block write-verified.

    Made by :func:`deployed_chip`.

    Attributes:
        backbone: The chip of everything but the block; None: ideal devices.
        residual: What write-verify leaves on the block, drawn with this chip's own seed and index.
    """

    backbone: Chip | None = None
    residual: Variation = VERIFIED

    def of(self, name: str) -> Chip | None:
        """The chip that a parameter lies on; None for ideal devices."""
        if name != WEIGHT:
            return self.backbone
        return Chip(self.residual, self.seed, self.index, self.mapping, self.stream, self.portable, write=self.write)

    def draw(self, name: str, weight: Tensor) -> Any:
        """The random numbers of one parameter on its chip."""
        chip = self.of(name)
        return None if chip is None else chip.draw(name, weight)

    def deviate(self, name: str, weight: Tensor, numbers: Any) -> Tensor:
        """What the devices of the parameter's chip hold."""
        chip = self.of(name)
        return weight if chip is None else chip.deviate(name, weight, numbers)

    def deviation(self, name: str, weight: Tensor) -> Tensor:
        """The deviation of one parameter on its chip."""
        chip = self.of(name)
        return torch.zeros_like(weight, dtype=torch.float32) if chip is None else chip.deviation(name, weight)

    def read_std(self, name: str, weight: Tensor, numbers: Any) -> Tensor | None:
        """Std of a reading of one parameter on its chip."""
        chip = self.of(name)
        return None if chip is None else chip.read_std(name, weight, numbers)


def deployed_chip(
    backbone: Chip | None,
    residual: Variation = VERIFIED,
    seed: int = 0,
    index: int = 0,
    mapping: WeightMapping | None = None,
    stream: str = "verified",
    portable: bool = True,
) -> DeployedChip:
    """A chip for ``on_chip`` on which a network lies as on ``backbone`` and its shared block is write-verified.

    Args:
        backbone: For example ``ChipPopulation(model, variation)[0]`` or a :class:`ReadBackChip`; None: ideal devices.
        residual: What write-verify leaves on the block's weights.
        seed: Of the residual.
        index: Of the residual: another number is another write of the same block.
        mapping: Which parameters lie on crossbars; default: the backbone chip's.
        stream: Of the residual.
        portable: Whether the residual is the same on every device.
    """
    mapping = mapping or (backbone.mapping if backbone is not None else WeightMapping())
    if WEIGHT not in mapping.include:
        mapping = replace(mapping, include=(*mapping.include, WEIGHT))
    variation = residual if backbone is None or backbone.variation.is_null else backbone.variation
    return DeployedChip(variation, seed, index, mapping, stream, portable, backbone, residual)
