"""How close a picture is to the image: PSNR, SSIM (Wang et al., 2004) and MS-SSIM (Wang et al., 2003).

SSIM's window is applied along rows, then along columns, one colour at a time: as a window of two dimensions it takes
more memory at some megapixels than everything else in a fit.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
"""Side of SSIM's window in pixels: 11 x 11, Gaussian of sigma 1.5."""
EDGE = WINDOW // 2
"""Pixels at each side where the window reaches beyond the image."""
SIGMA = 1.5
STABILISERS = (0.01**2, 0.03**2)
"""Added to the products of means and to the variances, for a range of 1."""
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of MS-SSIM's scales, each half as large a side as the one before."""
LEAST_SIDE = WINDOW * 2 ** (len(EXPONENTS) - 1)
"""Smallest side for which the window fits into the smallest scale."""


class Quality(NamedTuple):
    """Closeness of a picture to the image.

    Attributes:
        psnr: dB, at most 120.
        ssim: Structural similarity, at most 1; None for images smaller than its window.
        ms_ssim: At five scales, at most 1; None for images whose smallest scale is smaller than the window.
        note: Why a figure is None; else empty.
    """

    psnr: float
    ssim: float | None
    ms_ssim: float | None
    note: str = ""


@torch.no_grad()
def quality(picture: Tensor, image: Tensor) -> Quality:
    """Compare a picture with the image.

    Args:
        picture: (H, W, 3); clamped to [0, 1].
        image: (H, W, 3) in [0, 1].

    Raises:
        ValueError: Another size than the image's, or numbers that are not finite.

    Example:
        >>> image = torch.zeros(8, 8, 3)
        >>> found = quality(image + 0.1, image)
        >>> round(found.psnr, 3), found.note
        (20.0, 'no SSIM below 11 pixels a side, no MS-SSIM below 176 pixels a side')
    """
    if picture.shape != image.shape or image.dim() != 3:
        raise ValueError(f"a picture of shape {tuple(picture.shape)} for an image of {tuple(image.shape)}")
    if not bool(picture.isfinite().all()):
        raise ValueError("the picture has values that are not finite: has the fit diverged?")
    one, other = (part.detach().float().permute(2, 0, 1)[None] for part in (picture.clamp(0, 1), image))
    side = min(image.shape[:2])
    sides = {"SSIM": WINDOW, "MS-SSIM": LEAST_SIDE}
    missing = [f"no {name} below {least} pixels a side" for name, least in sides.items() if side < least]
    mse = (one - other).square().mean().clamp_min(1e-12)
    return Quality(
        psnr=float(-10 * mse.log10()),
        ssim=_similarity(one, other)[0] if side >= WINDOW else None,
        ms_ssim=_over_scales(one, other) if side >= LEAST_SIDE else None,
        note=", ".join(missing),
    )


def _over_scales(one: Tensor, other: Tensor) -> float:
    """MS-SSIM: contrast at every scale but the last, similarity there; what is negative counts as 0."""
    found = 1.0
    for scale, exponent in enumerate(EXPONENTS, start=1):
        similarity, contrast = _similarity(one, other)
        found *= max(similarity if scale == len(EXPONENTS) else contrast, 0.0) ** exponent
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return found


def _similarity(one: Tensor, other: Tensor) -> tuple[float, float]:
    """Mean of SSIM, and of its factor for contrast and structure where the window fits.

    Beyond its edges the image is mirrored; this and the places that count are as in torchmetrics.

    Args:
        one: (1, C, H, W) in [0, 1].
        other: Likewise.
    """
    for_means, for_variances = STABILISERS
    found = []
    for x, y in zip(one.split(1, 1), other.split(1, 1), strict=True):
        mean_x, mean_y = _windowed(x), _windowed(y)
        variances = _windowed(x * x) - mean_x**2 + _windowed(y * y) - mean_y**2
        contrast = (2 * (_windowed(x * y) - mean_x * mean_y) + for_variances) / (variances.clamp_min(0) + for_variances)
        brightness = (2 * mean_x * mean_y + for_means) / (mean_x**2 + mean_y**2 + for_means)
        found.append(((brightness * contrast).mean(), contrast[..., EDGE:-EDGE, EDGE:-EDGE].mean()))
    similarity, contrast = torch.tensor(found, dtype=torch.float64).mean(0).tolist()
    return similarity, contrast


def _windowed(x: Tensor) -> Tensor:
    """Means (1, 1, H, W) under the window."""
    place = torch.arange(WINDOW, dtype=x.dtype) - EDGE
    weight = (-(place**2) / (2 * SIGMA**2)).exp()
    weight = (weight / weight.sum()).view(1, 1, 1, WINDOW)
    x = F.pad(x, [EDGE] * 4, mode="reflect")
    return F.conv2d(F.conv2d(x, weight), weight.mT)
