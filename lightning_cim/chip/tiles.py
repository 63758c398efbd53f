"""Layers whose matrix lies on several crossbars: one partial sum for each block of rows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_cim.chip.mapping import Target

_CONVOLUTIONS = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}
_FORWARDS = {nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward}
_CONV_FORWARDS = {None, nn.Conv1d._conv_forward, nn.Conv2d._conv_forward, nn.Conv3d._conv_forward}


@dataclass(frozen=True, eq=False)
class Tile:
    """The rows of one array, as the input channels that they belong to.

    Attributes:
        first: The first input channel (of a group) that has a row here.
        channels: How many channels have one.
        mask: True for the weights of these channels whose row is here, (channels, *kernel); None where all are.
    """

    first: int
    channels: int
    mask: Tensor | None


@lru_cache(maxsize=1024)
def row_tiles(channels: int, kernel: tuple[int, ...], rows: int | None, device: torch.device) -> tuple[Tile, ...]:
    """Cut the rows of a layer's matrix into blocks.

    Rows are numbered as an unrolled convolution orders them: channel by channel, and within a channel by the position
    in the kernel. The last block has what is left.

    Args:
        channels: Input channels of one group; input features of a linear layer.
        kernel: The kernel's size; empty for a linear layer.
        rows: Word lines of an array; None: as many as needed.
        device: Where the masks are needed.

    Example:
        >>> [(tile.first, tile.channels) for tile in row_tiles(4, (3, 3), 12, torch.device("cpu"))]
        [(0, 2), (1, 2), (2, 2)]
    """
    area = math.prod(kernel)
    total = channels * area
    block = total if rows is None else min(rows, total)
    tiles = []
    for start in range(0, total, block):
        stop = min(start + block, total)
        first, last = start // area, -(-stop // area)
        mask = None
        if start % area or stop % area:
            with torch.inference_mode(False):  # kept for later calls, some of which may train
                row = torch.arange(first * area, last * area, device=device)
                mask = ((row >= start) & (row < stop)).reshape(last - first, *kernel)
        tiles.append(Tile(first, last - first, mask))
    return tuple(tiles)


def tiles_of(layer: nn.Module, rows: int | None, device: torch.device) -> tuple[Tile, ...]:
    """The blocks of rows of a linear layer or convolution."""
    if isinstance(layer, nn.Linear):
        return row_tiles(layer.in_features, (), rows, device)
    assert isinstance(layer, nn.modules.conv._ConvNd)
    return row_tiles(layer.in_channels // layer.groups, tuple(layer.kernel_size), rows, device)


def partial_sums(layer: nn.Module, x: Tensor, weight: Tensor, tiles: tuple[Tile, ...]) -> Iterator[Tensor]:
    """What the columns of each block of rows give, without the bias.

    Each is a call of torch's own linear layer or convolution on the channels that have a row in the block, because
    unrolling the input would cost several times as much.

    Args:
        layer: A linear layer or a convolution; stride, padding and its mode, dilation and groups are taken from it.
        x: The layer's input.
        weight: Of the shape of the layer's.
        tiles: What :func:`tiles_of` gave for the layer.

    Yields:
        One tensor of the output's shape for each tile; their sum is the layer's output without its bias.

    Raises:
        ValueError: An input of another number of channels.

    Example:
        >>> layer, x = nn.Linear(5, 2, bias=False), torch.randn(3, 5)
        >>> first, second = partial_sums(layer, x, layer.weight, tiles_of(layer, 4, x.device))
        >>> torch.allclose(first + second, layer(x), atol=1e-6)
        True
    """
    axis = x.ndim - weight.ndim + 1
    groups = 1
    settings: dict[str, Any] = {}
    compute: Any = F.linear
    if isinstance(layer, nn.modules.conv._ConvNd):
        compute, groups = _CONVOLUTIONS[weight.ndim], layer.groups
        padding: Any = layer.padding
        if layer.padding_mode != "zeros":
            x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode=layer.padding_mode), 0
        settings = {"stride": layer.stride, "padding": padding, "dilation": layer.dilation, "groups": groups}
    expected = weight.shape[1] * groups
    if axis < 0 or x.shape[axis] != expected:
        raise ValueError(
            f"{layer} was given an input of shape {tuple(x.shape)}, in which axis {axis} should have {expected}"
            " channels"
        )
    for tile in tiles:
        whole = tile.channels == weight.shape[1]
        part = weight if whole else weight.narrow(1, tile.first, tile.channels)
        part = part if tile.mask is None else part * tile.mask
        yield compute(x if whole else _channels(x, axis, groups, tile), part, **settings)


def _channels(x: Tensor, axis: int, groups: int, tile: Tile) -> Tensor:
    """The channels of a tile, of every group."""
    if groups == 1:
        return x.narrow(axis, tile.first, tile.channels)
    grouped = x.reshape(*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return grouped.narrow(axis + 1, tile.first, tile.channels).flatten(axis, axis + 1)


def tileable_layers(targets: list[Target]) -> list[tuple[str, nn.Module]]:
    """Each distinct layer of the targets with its path, in order.

    Raises:
        ValueError: Layers that compute otherwise than by one matrix product or convolution with their weight, named.
    """
    layers = mapped_layers(targets)
    refused = [f"{path or 'the model itself'} ({type(layer).__name__})" for path, layer in layers if not _fits(layer)]
    if refused:
        raise ValueError(
            "circuits can be put around Linear, Conv1d, Conv2d and Conv3d layers with torch's own forward only, not"
            f" around {', '.join(refused)}. Keep these digital: mapping=Mapping(exclude=[...]) with their names (of a"
            " MultiheadAttention the whole module's, which has its out_proj in it)"
        )
    return layers


def mapped_layers(targets: list[Target]) -> list[tuple[str, nn.Module]]:
    """Each distinct layer of the targets with its path, in order."""
    layers = {id(site.module): (site.path, site.module) for target in targets for site in target.sites}
    return list(layers.values())


def _fits(layer: nn.Module) -> bool:
    if isinstance(layer, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False  # part of a MultiheadAttention, which uses its weight without calling it
    own: Any = type(layer)
    if own.forward not in _FORWARDS or getattr(own, "_conv_forward", None) not in _CONV_FORWARDS:
        return False
    shadow = layer.__dict__.get("forward")  # copies of a layer in a circuit have the class's, bound to them
    return shadow is None or getattr(shadow, "__func__", None) is own.forward
