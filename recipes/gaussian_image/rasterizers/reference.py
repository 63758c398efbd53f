"""Every Gaussian at every pixel, in plain torch: what the fast rasterizers are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.gaussian_image.rasterizers.gaussians import CUT, check_gaussians


def rasterize(means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int, *, cut: bool = True) -> Tensor:
    """Sum of Gaussians at pixel centres, C(p) = sum_n c_n exp(-(p - mu_n)^T Q_n (p - mu_n) / 2).

    Accumulated sum as in GaussianImage (ECCV 2024) and SGI (arXiv 2603.07789): no order, no opacity, no clamping.
    Memory grows with N x height x width.

    Args:
        means: Centres x, y in pixels, float32 or float64, (N, 2); row y, column x has its centre at (x+0.5, y+0.5).
        conics: Q11, Q12, Q22 of the inverse covariance, (N, 3).
        colors: Colours, (N, C).
        height: Rows.
        width: Columns.
        cut: Whether to drop terms with a weight below 1/255; without, the sum is smooth everywhere.

    Returns:
        The image, (height, width, C), in the number format of the input.

    Raises:
        ValueError: See :func:`check_gaussians`.

    >>> mean, conic, color = torch.tensor([[0.5, 0.5]]), torch.tensor([[2.0, 0.0, 2.0]]), torch.ones(1, 1)
    >>> rasterize(mean, conic, color, 1, 3)[0, :, 0]
    tensor([1.0000, 0.3679, 0.0183])
    """
    check_gaussians(means, conics, colors, height, width, (torch.float32, torch.float64))
    x = torch.arange(width, dtype=means.dtype, device=means.device) + 0.5
    y = torch.arange(height, dtype=means.dtype, device=means.device) + 0.5
    dx = x[None, :, None] - means[:, 0]
    dy = y[:, None, None] - means[:, 1]
    s = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    weights = torch.exp(-s)
    return (weights.masked_fill(s > CUT, 0.0) if cut else weights) @ colors
