"""The sum over a tile's Gaussians as Triton kernels, forward and backward; runs on CUDA and in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from recipes.gaussian_image.rasterizers.binning import TileList
from recipes.gaussian_image.rasterizers.gaussians import CUT, factor
from recipes.gaussian_image.rasterizers.pairs import gradients, pair_constants, shifted_moments


class TritonSum(torch.autograd.Function):
    """Sum over the pairs of a tile list: means, conics, colors -> (tiles, tile * tile, C), all float32.

    One program a tile, forward and backward. Each pair writes moments of its own, so no two programs write to one
    place; they are added up by Gaussian in float64 afterwards. A tile's side must be a power of two.
    """

    @staticmethod
    def forward(ctx: Any, means: Tensor, conics: Tensor, colors: Tensor, tiles: TileList) -> Tensor:
        """Weights in registers, added up pair by pair."""
        ctx.save_for_backward(means, conics, colors)
        ctx.tiles = tiles
        image = colors.new_empty(tiles.tiles, tiles.tile**2, colors.shape[1])
        with torch.autocast(means.device.type, enabled=False), _on(means):
            _add[(tiles.tiles,)](*_arguments(means, conics, colors, tiles), image, **_constants(colors, tiles))
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Moments of each pair over its tile's pixels."""
        means, conics, colors = ctx.saved_tensors
        tiles: TileList = ctx.tiles
        moments = means.new_empty(tiles.ids.shape[0], 6)
        by_pair = colors.new_empty(tiles.ids.shape[0], colors.shape[1])
        with torch.autocast(means.device.type, enabled=False), _on(means):
            arguments = _arguments(means, conics, colors, tiles)
            _pull[(tiles.tiles,)](*arguments, upstream.contiguous(), moments, by_pair, **_constants(colors, tiles))
        shifted = shifted_moments(moments, means[tiles.ids], tiles.centres()[tiles.tile_of_pair()])
        sums = shifted.new_zeros(means.shape[0], 5).index_add_(0, tiles.ids, shifted)
        of_colors = torch.zeros_like(colors).index_add_(0, tiles.ids, by_pair)
        return *gradients(sums, conics), of_colors, None


def _on(values: Tensor) -> torch.cuda.device:
    """Launch on the GPU that holds the values, which need not be the current one; nothing on a CPU."""
    return torch.cuda.device(values.device if values.is_cuda else -1)


def _arguments(means: Tensor, conics: Tensor, colors: Tensor, tiles: TileList) -> tuple[Tensor, ...]:
    """What both kernels read."""
    factors = factor(conics)
    at_centre = pair_constants(means[tiles.ids], factors[tiles.ids], tiles.centres()[tiles.tile_of_pair()])
    return tiles.offsets, tiles.ids, at_centre.float(), factors.float(), colors.contiguous()


def _constants(colors: Tensor, tiles: TileList) -> dict[str, Any]:
    """What both kernels are compiled for."""
    channels = colors.shape[1]
    return {"channels": channels, "PADDED": triton.next_power_of_2(channels), "TILE": tiles.tile, "LIMIT": CUT}


# Triton reads these kernels' source: the annotations that mean something to it are constexpr alone.
@triton.jit
def _weight(pair, gaussian, at_centre, factors, x, y, LIMIT: tl.constexpr):  # noqa: ANN001, ANN202
    """Weights of one pair at the pixels x, y of its tile, zero beyond the cut."""
    u = tl.load(at_centre + 2 * pair) + tl.load(factors + 3 * gaussian) * x + tl.load(factors + 3 * gaussian + 1) * y
    v = tl.load(at_centre + 2 * pair + 1) + tl.load(factors + 3 * gaussian + 2) * y
    s = 0.5 * (u * u + v * v)
    return tl.where(s <= LIMIT, tl.exp(-s), 0.0)


@triton.jit
def _add(  # noqa: ANN202
    offsets,  # noqa: ANN001
    ids,  # noqa: ANN001
    at_centre,  # noqa: ANN001
    factors,  # noqa: ANN001
    colors,  # noqa: ANN001
    image,  # noqa: ANN001
    channels,  # noqa: ANN001
    PADDED: tl.constexpr,
    TILE: tl.constexpr,
    LIMIT: tl.constexpr,
):
    """Write the pixels of one tile."""
    tile = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, TILE * TILE)
    x = (pixel % TILE).to(tl.float32) - (TILE - 1) / 2
    y = (pixel // TILE).to(tl.float32) - (TILE - 1) / 2
    channel = tl.arange(0, PADDED)
    known = channel < channels
    total = tl.zeros((TILE * TILE, PADDED), tl.float32)
    for pair in range(tl.load(offsets + tile), tl.load(offsets + tile + 1)):
        gaussian = tl.load(ids + pair)
        weight = _weight(pair, gaussian, at_centre, factors, x, y, LIMIT)
        color = tl.load(colors + gaussian * channels + channel, mask=known, other=0.0)
        total += weight[:, None] * color[None, :]
    place = (tile * (TILE * TILE) + pixel[:, None]) * channels + channel[None, :]
    tl.store(image + place, total, mask=known[None, :])


@triton.jit
def _pull(  # noqa: ANN202
    offsets,  # noqa: ANN001
    ids,  # noqa: ANN001
    at_centre,  # noqa: ANN001
    factors,  # noqa: ANN001
    colors,  # noqa: ANN001
    upstream,  # noqa: ANN001
    moments,  # noqa: ANN001
    of_colors,  # noqa: ANN001
    channels,  # noqa: ANN001
    PADDED: tl.constexpr,
    TILE: tl.constexpr,
    LIMIT: tl.constexpr,
):
    """Write the moments and the colour gradients of one tile's pairs."""
    tile = tl.program_id(0).to(tl.int64)
    pixel = tl.arange(0, TILE * TILE)
    x = (pixel % TILE).to(tl.float32) - (TILE - 1) / 2
    y = (pixel // TILE).to(tl.float32) - (TILE - 1) / 2
    channel = tl.arange(0, PADDED)
    known = channel < channels
    place = (tile * (TILE * TILE) + pixel[:, None]) * channels + channel[None, :]
    above = tl.load(upstream + place, mask=known[None, :], other=0.0)
    for pair in range(tl.load(offsets + tile), tl.load(offsets + tile + 1)):
        gaussian = tl.load(ids + pair)
        weight = _weight(pair, gaussian, at_centre, factors, x, y, LIMIT)
        color = tl.load(colors + gaussian * channels + channel, mask=known, other=0.0)
        e = weight * tl.sum(above * color[None, :], axis=1)
        tl.store(moments + 6 * pair, tl.sum(e, axis=0))
        tl.store(moments + 6 * pair + 1, tl.sum(e * x, axis=0))
        tl.store(moments + 6 * pair + 2, tl.sum(e * y, axis=0))
        tl.store(moments + 6 * pair + 3, tl.sum(e * x * x, axis=0))
        tl.store(moments + 6 * pair + 4, tl.sum(e * x * y, axis=0))
        tl.store(moments + 6 * pair + 5, tl.sum(e * y * y, axis=0))
        tl.store(of_colors + pair * channels + channel, tl.sum(weight[:, None] * above, axis=0), mask=known)
