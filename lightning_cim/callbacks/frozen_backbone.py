"""A network of which only the shared block trains, and the programming of its chips."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_cim.callbacks.variation_injection import SwitchedProgram
from lightning_cim.chip.deployed import DeployedChip
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import resolved
from lightning_cim.chip.shared_block import WEIGHT, SharedBlock
from lightning_cim.chip.traces import _shadow
from lightning_cim.chip.transform import Stored

SMALL = 16
"""Blocks of at most so many channels train with the larger learning rate."""


def default_lr(shared: SharedBlock) -> float:
    """Adam's learning rate: 1e-2 for small blocks, else 1e-3."""
    return 1e-2 if shared.width <= SMALL else 1e-3


def freeze_backbone(undo: ExitStack, model: nn.Module, shared: SharedBlock, mapping: Mapping, lr: float) -> list[Any]:
    """Take gradients from everything but the block, and make ``configure_optimizers`` an Adam over the block.

    Args:
        undo: Gives all of it back when it is closed.
        model: The LightningModule.
        shared: Its block.
        mapping: Which parameters lie on crossbars.
        lr: Of Adam.

    Returns:
        Modules that keep statistics while they train, such as batch norm: set ``training = False`` before each batch.
        Modules around matrix layers are not among them; they, and the model itself, train as ever.
    """
    own = {id(parameter) for parameter in shared.parameters()}
    for parameter in model.parameters():
        undo.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(id(parameter) in own)
    layers = {id(site.module) for target in resolved(model, mapping) for site in target.sites}
    pinned = [
        module
        for module in model.modules()
        if next(module.buffers(recurse=False), None) is not None
        and not any(id(inner) in layers for inner in module.modules() if inner is not module)
    ]
    for module in pinned:
        undo.callback(setattr, module, "training", module.training)
    _shadow(undo, model, "configure_optimizers", _OnlyBlock(shared, lr))
    return pinned


class _OnlyBlock:
    """What ``configure_optimizers`` is during the fit; an object, so that the module can be copied and pickled."""

    def __init__(self, shared: SharedBlock, lr: float) -> None:
        self.shared, self.lr = shared, lr

    def __call__(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.shared.parameters(), lr=self.lr)


class DeployedProgram(SwitchedProgram):
    """Programs deployed chips; the numbers of a backbone are drawn once while the backbone's chip stays.

    Args:
        chip: The chip to start with; the link starts off.
    """

    chip: DeployedChip

    def __init__(self, chip: DeployedChip) -> None:
        super().__init__(chip, keep=True)

    def switch_to(self, chip: DeployedChip) -> None:  # type: ignore[override]
        """Program this chip from now on."""
        kept, self._kept = self._kept, {}
        if chip.backbone == self.chip.backbone:
            kept.pop(WEIGHT, None)
            self._kept = kept
        self.chip, self._on = chip, True

    def numbers(self, stored: Stored) -> Any:
        """The chip's random numbers, on the weight's device."""
        if stored.name not in self._kept:
            drawn = self.chip.draw(stored.name, stored.value)
            self._kept[stored.name] = tree_map(
                lambda leaf: leaf.to(stored.value.device) if isinstance(leaf, Tensor) else leaf, drawn
            )
        return self._kept[stored.name]
