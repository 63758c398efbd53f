"""A (tile, Gaussian) pair in the tile's own coordinates: what kernels read, and how gradients come back from them.

Inside a tile x and y count from its middle, so they stay small and float32 keeps its precision however far the Gaussian
reaches; what is large (the distance to the mean) is added up in float64, once a pair instead of once a pixel.
"""

from __future__ import annotations

import torch
from torch import Tensor

# exp(-OUTSIDE^2 / 2) is far below 1/255: the weight of a pair that only fills up a block.
OUTSIDE = 1e3


def pair_constants(means: Tensor, factors: Tensor, centres: Tensor) -> Tensor:
    """u and v of pairs at the middle of their tiles: u = l11 dx + l21 dy, v = l22 dy.

    Args:
        means: Mean of each pair's Gaussian, pixels, (..., 2).
        factors: l11, l21, l22 of each pair's Gaussian, float64, (..., 3).
        centres: Middle of each pair's tile, pixels, float64, broadcast with (..., 2).

    Returns:
        u, v, float64, (..., 2).
    """
    dx, dy = (centres - means.double()).unbind(dim=-1)
    l11, l21, l22 = factors.unbind(dim=-1)
    return torch.stack([l11 * dx + l21 * dy, l22 * dy], dim=-1)


def monomials(tile: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """1, x, y, xx, xy, yy at the pixels of a tile, row by row, counted from its middle, (tile * tile, 6)."""
    steps = torch.arange(tile, dtype=dtype, device=device) - (tile - 1) / 2
    y, x = (axis.reshape(-1) for axis in torch.meshgrid(steps, steps, indexing="ij"))
    return torch.stack([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=1)


def shifted_moments(moments: Tensor, means: Tensor, centres: Tensor) -> Tensor:
    """Sums of e times rx, ry, rx rx, rx ry, ry ry (r = pixel - mean) from sums of e times the tile's monomials.

    Args:
        moments: Sums over the pixels of a tile, (..., 6).
        means: As in :func:`pair_constants`.
        centres: As in :func:`pair_constants`.

    Returns:
        The five sums, float64, (..., 5).
    """
    s0, sx, sy, sxx, sxy, syy = moments.double().unbind(dim=-1)
    mx, my = (means.double() - centres).unbind(dim=-1)
    return torch.stack(
        [
            sx - mx * s0,
            sy - my * s0,
            sxx - 2 * mx * sx + mx * mx * s0,
            sxy - mx * sy - my * sx + mx * my * s0,
            syy - 2 * my * sy + my * my * s0,
        ],
        dim=-1,
    )


def gradients(sums: Tensor, conics: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the loss for means and conics.

    dL/dmu = Q sum e r; dL/dQ11 = -1/2 sum e rx rx; dL/dQ12 = -sum e rx ry; dL/dQ22 = -1/2 sum e ry ry, where e is the
    weight times the inner product of the colour with dL/dC.

    Args:
        sums: The five sums of each Gaussian over all pixels, float64, (N, 5).
        conics: Inverse covariances, (N, 3).

    Returns:
        Gradients (N, 2) and (N, 3) in the conics' number format.
    """
    ex, ey, exx, exy, eyy = sums.unbind(dim=1)
    q11, q12, q22 = conics.double().unbind(dim=1)
    of_means = torch.stack([q11 * ex + q12 * ey, q12 * ex + q22 * ey], dim=1)
    of_conics = torch.stack([-0.5 * exx, -exy, -0.5 * eyy], dim=1)
    return of_means.to(conics.dtype), of_conics.to(conics.dtype)
