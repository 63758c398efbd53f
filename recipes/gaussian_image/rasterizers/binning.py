"""Which Gaussians touch which tile: one flat list sorted by tile, in gsplat's layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.gaussian_image.rasterizers.gaussians import half_extents


@dataclass(frozen=True)
class TileList:
    """Pairs (tile, Gaussian), sorted by tile.

    Attributes:
        tile: Side of a tile, pixels.
        tiles_x: Tiles in a row.
        tiles_y: Rows of tiles.
        offsets: Where each tile's pairs begin, and the end, (tiles_x * tiles_y + 1,), int64.
        ids: The Gaussian of each pair, (pairs,), int64.
    """

    tile: int
    tiles_x: int
    tiles_y: int
    offsets: Tensor
    ids: Tensor

    @property
    def tiles(self) -> int:
        """How many tiles."""
        return self.tiles_x * self.tiles_y

    def tile_of_pair(self) -> Tensor:
        """The tile of each pair, (pairs,)."""
        return torch.repeat_interleave(torch.arange(self.tiles, device=self.ids.device), self.offsets.diff())

    def centres(self) -> Tensor:
        """The middle x, y of each tile in pixels, (tiles, 2), float64."""
        index = torch.arange(self.tiles, device=self.ids.device)
        return (torch.stack([index % self.tiles_x, index // self.tiles_x], dim=1).double() + 0.5) * self.tile


Binning = Callable[[Tensor, Tensor, int, int, int], TileList]


def bin_by_torch(means: Tensor, conics: Tensor, height: int, width: int, tile: int) -> TileList:
    """Pairs of every tile with every Gaussian whose bounding box touches it, by torch on any device.

    Args:
        means: Centres x, y in pixels, (N, 2).
        conics: Inverse covariances, (N, 3).
        height: Rows of the image.
        width: Columns of the image.
        tile: Side of a tile, pixels.

    Returns:
        The pairs; inside a tile in the order of the Gaussians.

    >>> pairs = bin_by_torch(torch.tensor([[8.0, 2.0]]), torch.tensor([[9.0, 0.0, 9.0]]), 8, 24, 8)
    >>> pairs.offsets.tolist(), pairs.ids.tolist()
    ([0, 1, 2, 2], [0, 0])
    """
    tiles_x, tiles_y = -(-width // tile), -(-height // tile)
    extents, centres = half_extents(conics), means.double()
    limit = torch.tensor([tiles_x, tiles_y], dtype=torch.float64, device=means.device)
    first = ((centres - extents) / tile).floor().clamp(min=0.0).minimum(limit).long()
    last = ((centres + extents) / tile).ceil().clamp(min=0.0).minimum(limit).long()
    columns, rows = (last - first).unbind(dim=1)
    counts = columns * rows
    ids = torch.repeat_interleave(torch.arange(means.shape[0], device=means.device), counts)
    within = torch.arange(ids.shape[0], device=means.device) - (counts.cumsum(0) - counts)[ids]
    tile_of_pair = (first[ids, 1] + within // columns[ids]) * tiles_x + first[ids, 0] + within % columns[ids]
    tile_of_pair, order = torch.sort(tile_of_pair, stable=True)
    ends = torch.bincount(tile_of_pair, minlength=tiles_x * tiles_y).cumsum(0)
    return TileList(tile, tiles_x, tiles_y, torch.cat([ends.new_zeros(1), ends]), ids[order])
