"""gsplat on CUDA: its tile binning for the sum, and its own alpha compositing as an ablation.

gsplat is imported by the first call and only where CUDA is available. Its kernels compile on first use there, which
takes minutes and needs nvcc.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from recipes.gaussian_image.rasterizers.binning import TileList, bin_by_torch
from recipes.gaussian_image.rasterizers.gaussians import check_gaussians, half_extents

TILE = 16


class IntersectionTools(Protocol):
    """The part of gsplat's interface that binning needs; its kernels and its torch implementation offer it."""

    def isect_tiles(
        self, means2d: Tensor, radii: Tensor, depths: Tensor, tile_size: int, tile_width: int, tile_height: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs sorted by tile: tiles of each Gaussian, pair keys, the pairs' Gaussians."""

    def isect_offset_encode(self, isect_ids: Tensor, n_images: int, tile_width: int, tile_height: int) -> Tensor:
        """Where each tile's pairs begin, (n_images, tile_height, tile_width)."""


@lru_cache(maxsize=1)
def load_gsplat() -> Any:
    """The module gsplat, after one call of its kernels.

    Returns:
        The module.

    Raises:
        RuntimeError: This machine has no CUDA GPU; gsplat has not been imported.
        ImportError: gsplat is missing, or its kernels do not build or run.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("the backend 'gsplat' needs a CUDA GPU, and there is none: take 'numba' or 'torch'")
    try:
        import gsplat
    except ImportError as error:
        raise ImportError("the backend 'gsplat' needs gsplat: pip install 'lightning-cim[sgi-cuda]'") from error
    one = torch.ones(1, 3, device="cuda")
    try:
        bin_by_tools(gsplat, one[:, :2], one * torch.tensor([1.0, 0.0, 1.0], device="cuda"), 1, 1, TILE)
    # What a missing toolkit, a failed build and a library that does not load end in.
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise ImportError(
            f"gsplat's kernels do not build or run here ({error}): is nvcc on PATH? Or take 'triton' or 'torch'"
        ) from error
    return gsplat


def bin_by_gsplat(means: Tensor, conics: Tensor, height: int, width: int, tile: int) -> TileList:
    """Pairs of tiles with Gaussians by gsplat's kernels; see :func:`bin_by_torch`."""
    return bin_by_tools(load_gsplat(), means, conics, height, width, tile)


def bin_by_tools(
    tools: IntersectionTools, means: Tensor, conics: Tensor, height: int, width: int, tile: int
) -> TileList:
    """Pairs of tiles with Gaussians by any implementation of gsplat's interface.

    Args:
        tools: ``gsplat``, or its torch implementation.
        means: Centres, (N, 2), float32.
        conics: Inverse covariances, (N, 3), float32.
        height: Rows of the image.
        width: Columns of the image.
        tile: Side of a tile, pixels.

    Returns:
        The pairs; a superset of :func:`bin_by_torch`'s, because gsplat takes whole pixels as radii.
    """
    if means.shape[0] == 0:
        return bin_by_torch(means, conics, height, width, tile)
    tiles_x, tiles_y = -(-width // tile), -(-height // tile)
    # gsplat computes in float32: one pixel more keeps its rounding from losing a tile.
    radii = (half_extents(conics).ceil() + 1).clamp(max=2**30).int()
    depths = means.new_zeros(1, means.shape[0])
    _, keys, ids = tools.isect_tiles(means[None].contiguous(), radii[None], depths, tile, tiles_x, tiles_y)
    begins = tools.isect_offset_encode(keys, 1, tiles_x, tiles_y).reshape(-1).long()
    return TileList(tile, tiles_x, tiles_y, torch.cat([begins, begins.new_full((1,), ids.shape[0])]), ids.long())


def rasterize_alpha(means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int) -> Tensor:
    """Gaussians composited front to back by gsplat's own rasterizer, opacity 1: an ablation, not SGI.

    A pixel is sum_n c_n a_n prod_{m<n} (1 - a_m) with a = min(0.999, exp(-s)), the first Gaussian in front; it stops
    where the product falls to 1e-4. What a structured image learns for a sum looks wrong in it and the reverse.

    Args:
        means: Centres, (N, 2), float32, on a GPU.
        conics: Inverse covariances, (N, 3).
        colors: Colours, (N, C).
        height: Rows.
        width: Columns.

    Returns:
        The image, (height, width, C).

    Raises:
        ValueError: See :func:`check_gaussians`.
    """
    check_gaussians(means, conics, colors, height, width, device_type="cuda")
    if means.shape[0] == 0:
        return colors.new_zeros(height, width, colors.shape[1])
    gsplat = load_gsplat()
    with torch.no_grad():
        pairs = bin_by_gsplat(means, conics, height, width, TILE)
    begins = pairs.offsets[:-1].int().reshape(1, pairs.tiles_y, pairs.tiles_x)
    opacities = means.new_ones(1, means.shape[0])
    image: Tensor = gsplat.rasterize_to_pixels(
        means[None], conics[None], colors[None], opacities, width, height, TILE, begins, pairs.ids.int()
    )[0][0]
    return image
