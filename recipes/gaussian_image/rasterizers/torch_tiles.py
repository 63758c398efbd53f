"""Tiles in plain torch: the portable rasterizer, on any device, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from recipes.gaussian_image.rasterizers.binning import Binning, TileList, bin_by_torch
from recipes.gaussian_image.rasterizers.gaussians import check_gaussians, factor
from recipes.gaussian_image.rasterizers.pairs import OUTSIDE, gradients, monomials, pair_constants, shifted_moments

# Weights held at once. Blocks that fit a CPU's cache are fastest there; a GPU wants few large ones.
BUDGET = {"cpu": 2**19, "cuda": 2**25}
# Tiles whose counts differ by at most this factor share a block, so at most a fifth of a block is padding.
PADDING = 1.25


class TileKernel(Protocol):
    """Adds up the pairs of a tile list, differentiably: -> (tiles, tile * tile, C)."""

    def __call__(self, means: Tensor, conics: Tensor, colors: Tensor, tiles: TileList) -> Tensor:
        """Arguments as of :func:`rasterize`."""


def rasterize(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    height: int,
    width: int,
    *,
    tile: int = 8,
    binning: Binning = bin_by_torch,
    kernel: TileKernel | None = None,
) -> Tensor:
    """Sum of Gaussians, tile by tile; see :func:`recipes.gaussian_image.rasterizers.reference.rasterize`.

    The backward pass computes the weights again instead of keeping them, so memory does not grow with their number.

    Args:
        means: Centres x, y in pixels, (N, 2), float32; this module's own kernel takes float64 too.
        conics: Inverse covariances, (N, 3).
        colors: Colours, (N, C).
        height: Rows.
        width: Columns.
        tile: Side of a tile, pixels.
        binning: Lists the Gaussians of each tile.
        kernel: Adds up each tile's Gaussians; by default this module's own.

    Returns:
        The image, (height, width, C).

    Raises:
        ValueError: See :func:`check_gaussians`.
    """
    dtypes = (torch.float32,) if kernel else (torch.float32, torch.float64)
    check_gaussians(means, conics, colors, height, width, dtypes)
    with torch.no_grad():
        tiles = binning(means, conics, height, width, tile)
    return untile((kernel or TileSum.apply)(means, conics, colors, tiles), tiles, height, width)


def untile(values: Tensor, tiles: TileList, height: int, width: int) -> Tensor:
    """From pixels by tile, (tiles, tile * tile, C), to the image, (height, width, C)."""
    side, channels = tiles.tile, values.shape[-1]
    grid = values.reshape(tiles.tiles_y, tiles.tiles_x, side, side, channels).transpose(1, 2)
    return grid.reshape(tiles.tiles_y * side, tiles.tiles_x * side, channels)[:height, :width]


class TileSum(torch.autograd.Function):
    """Sum over the pairs of a tile list: means, conics, colors -> (tiles, tile * tile, C)."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, conics: Tensor, colors: Tensor, tiles: TileList) -> Tensor:
        """Weights of a block at a time, summed by one matrix product."""
        ctx.save_for_backward(means, conics, colors)
        ctx.tiles = tiles
        image = colors.new_zeros(tiles.tiles, tiles.tile**2, colors.shape[1])
        factors, centres = factor(conics), tiles.centres()
        with _full_precision(means.device):
            for tile, ids, valid in _blocks(tiles):
                weights = _weights(means, factors, centres[tile], ids, valid, tiles.tile)
                image.index_add_(0, tile, weights.transpose(1, 2) @ colors[ids])
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Moments of each pair by one matrix product, shifted to the mean and added up in float64."""
        means, conics, colors = ctx.saved_tensors
        tiles: TileList = ctx.tiles
        factors, centres = factor(conics), tiles.centres()
        basis = monomials(tiles.tile, means.dtype, means.device)
        sums = means.new_zeros(means.shape[0], 5, dtype=torch.float64)
        of_colors = torch.zeros_like(colors)
        with _full_precision(means.device):
            for tile, ids, valid in _blocks(tiles):
                weights = _weights(means, factors, centres[tile], ids, valid, tiles.tile)
                above = upstream[tile]
                of_colors.index_add_(0, ids.reshape(-1), (weights @ above).flatten(0, 1))
                e = (colors[ids] @ above.transpose(1, 2)).mul_(weights)
                shifted = shifted_moments(e @ basis, means[ids], centres[tile][:, None])
                sums.index_add_(0, ids.reshape(-1), shifted.flatten(0, 1))
        return *gradients(sums, conics), of_colors, None


def _weights(means: Tensor, factors: Tensor, centres: Tensor, ids: Tensor, valid: Tensor, tile: int) -> Tensor:
    """Weights of a block of T tiles with G pairs each at the tiles' pixels, (T, G, tile * tile)."""
    steps = torch.arange(tile, dtype=means.dtype, device=means.device) - (tile - 1) / 2
    own = factors[ids]
    at_centre = pair_constants(means[ids], own, centres[:, None])
    at_centre = at_centre.masked_fill(~valid[..., None], OUTSIDE).to(means.dtype)[..., None]
    l11, l21, l22 = own.to(means.dtype)[..., None].unbind(dim=2)
    u = (at_centre[:, :, 0] + l21 * steps)[..., None] + (l11 * steps)[:, :, None]
    v = at_centre[:, :, 1] + l22 * steps
    weights = u.square_().add_(v.square_()[..., None]).mul_(-0.5).exp_()
    return torch.threshold_(weights, 1 / 255, 0.0).flatten(2)


def _blocks(tiles: TileList) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Split the pairs into blocks of bounded size: tile (T,), Gaussian (T, G), whether a pair is no padding (T, G)."""
    device = tiles.ids.device
    budget = BUDGET.get(device.type, BUDGET["cuda"]) // tiles.tile**2
    counts = tiles.offsets.diff()
    # A tile with more pairs than a block may hold is cut into several pieces.
    pieces = (counts + budget - 1) // budget
    tile = torch.repeat_interleave(torch.arange(tiles.tiles, device=device), pieces)
    piece = torch.arange(tile.shape[0], device=device) - (pieces.cumsum(0) - pieces)[tile]
    start = tiles.offsets[tile] + piece * budget
    size = (tiles.offsets[tile + 1] - start).clamp(max=budget)
    sizes, order = torch.sort(size, stable=True)
    at = 0
    ordered = sizes.tolist()
    while at < len(ordered):
        end = bisect_right(ordered, int(ordered[at] * PADDING))
        end = min(end, at + max(1, budget // ordered[end - 1]))
        chosen, longest = order[at:end], ordered[end - 1]
        step = torch.arange(longest, device=device)
        valid = step < size[chosen, None]
        index = torch.where(valid, start[chosen, None] + step, 0)
        yield tile[chosen], tiles.ids[index], valid
        at = end


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 and no bfloat16 inside products, whatever the program has allowed elsewhere."""
    before = _precision()
    _set_precision(("ieee",) * len(before) if len(before) > 1 else ("highest",))
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _set_precision(before)


def _precision() -> tuple[str, ...]:
    """The settings of products in float32. Torch from 2.9 on has one for each library, before it one for all."""
    if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    return (torch.get_float32_matmul_precision(),)


def _set_precision(values: tuple[str, ...]) -> None:
    if len(values) > 1:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = values
    else:
        torch.set_float32_matmul_precision(values[0])
