"""How close a picture is to the image: PSNR, SSIM and MS-SSIM by torchmetrics."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

WINDOW = 11
"""Side of SSIM's window in pixels: 11 x 11, Gaussian of sigma 1.5."""
SCALES = 5
"""Of MS-SSIM, each half as large a side as the one before."""
LEAST_SIDE = WINDOW * 2 ** (SCALES - 1)
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
    psnr = peak_signal_noise_ratio(one, other, data_range=1.0) if bool((one != other).any()) else torch.tensor(120.0)
    ssim = structural_similarity_index_measure(one, other, data_range=1.0) if side >= WINDOW else None
    return Quality(
        psnr=min(float(psnr), 120.0),
        ssim=None if ssim is None else float(ssim),  # type: ignore[arg-type]
        ms_ssim=float(multiscale_structural_similarity_index_measure(one, other, data_range=1.0, normalize="relu"))
        if side >= LEAST_SIDE
        else None,
        note=", ".join(missing),
    )
