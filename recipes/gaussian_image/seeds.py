"""Where seeds lie: a pure function of a few numbers, so that a file needs no positions.

Seeds are drawn along a Hilbert curve through the coarsest level's pixels at equal steps of density, each jittered
within its step: as even as a jittered grid, for any density. The density is a map of at most 225 small integers that
the file holds; without one it is the same everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MOST_CELLS = 225
"""Cells of a density map at most."""
LARGEST_DENSITY = 63
"""Values of a density map are 1 to 63."""


def map_shape(height: int, width: int) -> tuple[int, int]:
    """Rows and columns of the density map of an image.

    Example:
        >>> map_shape(512, 512), map_shape(512, 768)
        ((15, 15), (12, 18))
    """
    rows = max(1, min(MOST_CELLS, round(math.sqrt(MOST_CELLS * height / width))))
    return rows, MOST_CELLS // rows


def density_of(image: Tensor, power: float = 1.0) -> tuple[int, ...]:
    """Density map of an image: where neighbouring pixels differ, seeds lie closer.

    Args:
        image: (H, W, 3) in [0, 1].
        power: Of the mean difference in a cell. 0: the same density everywhere.

    Returns:
        Row by row, 1 to 63.

    Example:
        >>> left = torch.zeros(30, 30, 3)
        >>> left[:, :15] = torch.rand(30, 15, 3)
        >>> cells = torch.tensor(density_of(left)).view(15, 15)
        >>> bool(cells[:, :7].min() > cells[:, 8:].max())
        True
    """
    height, width = image.shape[:2]
    grey = image.mean(2)
    change = torch.zeros(height, width)
    change[:, 1:] += (grey[:, 1:] - grey[:, :-1]).abs()
    change[1:] += (grey[1:] - grey[:-1]).abs()
    cells = torch.nn.functional.adaptive_avg_pool2d(change[None], map_shape(height, width))[0].flatten()
    cells = cells.clamp_min(1e-3) ** power
    return tuple((cells / cells.max() * LARGEST_DENSITY).round().clamp(1, LARGEST_DENSITY).int().tolist())


def even_seeds(
    height: int, width: int, count: int, density: Sequence[int], seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seeds of a density.

    Args:
        height: Of the coarsest level, in pixels.
        width: Likewise.
        count: How many.
        density: Row by row, `map_shape` of the full image; empty: constant.
        seed: Of the jitter.

    Returns:
        Positions (count, 2), x and y in pixels, and the distance (count,) to the next seeds that the density makes one
        expect.

    Raises:
        ValueError: A density of another length.

    Example:
        >>> xy, spacing = even_seeds(8, 8, 16, (), 0)
        >>> xy.shape, float(spacing[0])
        ((16, 2), 2.0)
    """
    weight = _raster(height, width, density)
    rows, columns = np.divmod(np.arange(height * width), width)
    order = np.argsort(_hilbert(columns, rows, max(height, width)), kind="stable")
    reached = np.cumsum(weight.reshape(-1)[order])
    draw = np.random.Generator(np.random.PCG64(seed))
    wanted = (np.arange(count) + draw.random(count)) / count * reached[-1]
    pixel = order[np.minimum(np.searchsorted(reached, wanted, side="right"), height * width - 1)]
    xy = np.stack([columns[pixel], rows[pixel]], 1) + draw.random((count, 2))
    return xy, np.sqrt(reached[-1] / count / weight.reshape(-1)[pixel])


def grid_seeds(height: int, width: int, count: int, seed: int) -> NDArray[np.float64]:
    """Seeds as the authors place them: one random whole pixel a cell of a square grid, `count` of these, no doubles.

    Args:
        height: Of the coarsest level, in pixels.
        width: Likewise.
        count: How many at most.
        seed: Of the draw.

    Returns:
        Positions (n, 2), n <= count.
    """
    side = math.isqrt(count - 1) + 1 if count else 0
    draw = np.random.Generator(np.random.PCG64(seed))
    cell = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    places = np.floor((cell + draw.random((side * side, 2))) * (np.array([width, height]) / max(side, 1)))
    kept = draw.permutation(side * side)[:count]
    return np.unique(places[kept], axis=0)


def _raster(height: int, width: int, density: Sequence[int]) -> NDArray[np.float64]:
    """The density at every pixel, bilinear between the cells' centres."""
    if not density:
        return np.ones((height, width))
    rows, columns = map_shape(height, width)
    if len(density) != rows * columns:
        raise ValueError(f"a density map of {len(density)} values; {height} x {width} pixels want {rows} x {columns}")
    cells = np.array(density, dtype=np.float64).reshape(rows, columns)
    return _between(_between(cells, height).T, width).T


def _between(cells: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    """Stretch the first axis, linear between the centres."""
    at = np.clip((np.arange(length) + 0.5) * (len(cells) / length) - 0.5, 0, len(cells) - 1)
    low = np.minimum(at.astype(np.int64), max(len(cells) - 2, 0))
    part = (at - low)[:, None]
    between: NDArray[np.float64] = cells[low] * (1 - part) + cells[np.minimum(low + 1, len(cells) - 1)] * part
    return between


def _hilbert(x: NDArray[np.int64], y: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Place on the Hilbert curve through the smallest square of 2^n pixels a side that holds `side`."""
    last = (1 << max(side - 1, 1).bit_length()) - 1
    place, half = np.zeros_like(x), (last + 1) // 2
    while half:
        right, below = (x & half) > 0, (y & half) > 0
        place += half * half * ((3 * right) ^ below)
        turned = right & ~below
        x, y = np.where(turned, last - x, x), np.where(turned, last - y, y)
        x, y = np.where(below, x, y), np.where(below, y, x)
        half //= 2
    return place
