"""Auxiliary heads on intermediate representations (the snapshots of NeFT's IRS)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim.chip.stages import Block, first_tensor

FEATURES = 2304
"""Inputs of a published head's first layer at most: the pooled size k is the largest for which C * k * k fits."""

HIDDEN = 512
"""Width of a published head's hidden layer."""

SHARE = 0.42
"""Weights of all heads over the network's at most: 0.27 for the published VGG-8, 0.41 for ResNet-18. Heads larger
than their network take the classification over, which the deployed network then lacks."""

_POOLS: dict[int, type[nn.Module]] = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def pooled_size(channels: int, space: Sequence[int], features: float = FEATURES) -> int:
    """k of a head: C * k^d is at most ``features``, and k at most the smallest side.

    Args:
        channels: C.
        space: The d sides of the feature map; none for flat features.
        features: Inputs of the head's first layer at most.

    Example:
        >>> [pooled_size(c, (s, s)) for c, s in ((64, 32), (128, 16), (256, 8))]  # as published
        [6, 4, 3]
    """
    if not space:
        return 1
    side = 1
    while side < min(space) and channels * (side + 1) ** len(space) <= features:
        side += 1
    return side


class SnapshotHead(nn.Module):
    """Pool, flatten, Linear(C k^d, hidden), ReLU, Linear(hidden, outputs), as in the reference code of NeFT.

    Args:
        block: Where the snapshot is taken; sequences (N, L, C) are pooled along L.
        outputs: Logits of one sample.
        scale: Of the published sizes :data:`FEATURES` and :data:`HIDDEN`, at most 1.
    """

    def __init__(self, block: Block, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.channel_dim = block.channel_dim
        space = _space(block)
        side = pooled_size(block.channels, space, scale * FEATURES)
        self.pool = _POOLS[len(space)](side) if space else nn.Identity()
        inputs, hidden = block.channels * side ** len(space), _hidden(outputs, scale)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))

    def forward(self, snapshot: Tensor) -> Tensor:
        """Logits (N, outputs) of a snapshot."""
        if self.channel_dim == -1 and snapshot.ndim > 2:
            snapshot = snapshot.movedim(-1, 1)
        logits: Tensor = self.layers(self.pool(snapshot))
        return logits


def snapshot_heads(blocks: Sequence[Block], outputs: int, network: int) -> nn.ModuleList:
    """One head a snapshot: of the published size, or smaller where the network is small.

    Args:
        blocks: Where the snapshots are taken.
        outputs: Logits of one sample.
        network: Weights of the network; the heads have at most :data:`SHARE` of them, as far as they can shrink.
    """
    scale = 1.0
    while scale > 1 / HIDDEN and sum(_weights(block, outputs, scale) for block in blocks) > SHARE * network:
        scale *= 0.95
    return nn.ModuleList(SnapshotHead(block, outputs, scale) for block in blocks)


def _weights(block: Block, outputs: int, scale: float) -> int:
    space = _space(block)
    inputs = block.channels * pooled_size(block.channels, space, scale * FEATURES) ** len(space)
    return int((inputs + outputs) * _hidden(outputs, scale))


def _hidden(outputs: int, scale: float) -> int:
    """Never narrower than the outputs, which a head could not tell apart then."""
    return max(outputs, round(scale * HIDDEN))


def _space(block: Block) -> tuple[int, ...]:
    return block.pooled_shape[2:] if block.channel_dim == 1 else block.pooled_shape[1:-1]


@contextmanager
def recorded(model: nn.Module, blocks: Sequence[Block]) -> Iterator[list[Tensor]]:
    """Within the block, collect the snapshots of a forward pass, in the order of ``blocks``.

    Args:
        model: The network.
        blocks: Where; the output of each one's ``pooled``.

    Yields:
        A list that is complete when the network has run; a later pass replaces an earlier one's.
    """
    found: list[Tensor] = [torch.empty(0)] * len(blocks)

    def keep(index: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensor = first_tensor(output)
            assert tensor is not None  # it was a tensor when the blocks were found
            found[index] = tensor

        return hook

    handles = [model.get_submodule(block.pooled).register_forward_hook(keep(i)) for i, block in enumerate(blocks)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
