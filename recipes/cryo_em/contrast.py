"""Whether particles are dark or bright."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from recipes.cryo_em.stack import CHUNK, ImageStack, chunks

SAMPLE = 2048
INSIDE, OUTSIDE = 0.2, 0.4
"""Radii that bound the particle's middle and what surrounds it, as parts of the image's edge."""
DOUBT = 5.0
"""Standard errors beyond which the contrast is said to be of the wrong sign."""


def contrast(images: ImageStack) -> float:
    """By how many standard errors the images' middle is brighter than what surrounds it; negative for dark particles.

    Example:
        >>> from recipes.cryo_em.stack import TensorStack
        >>> noisy = torch.randn(50, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> noisy[:, 6:11, 6:11] -= 1
        >>> contrast(TensorStack(noisy)) < -10
        True
    """
    rows = torch.linspace(0, len(images) - 1, min(SAMPLE, len(images)), dtype=torch.float64).long()
    along = (torch.arange(images.size) - images.size // 2).float()
    radius = torch.hypot(along[:, None], along[None, :]) / images.size
    found = torch.cat([_differences(images[part], radius) for part in chunks(rows, CHUNK)])
    return float(found.mean() / (found.std() / len(found) ** 0.5).clamp(min=1e-12))


def _differences(images: Tensor, radius: Tensor) -> Tensor:
    return images[:, radius < INSIDE].mean(1) - images[:, radius > OUTSIDE].mean(1)


def warn_of_contrast(images: ImageStack) -> None:
    """Warn if particles look bright that should by now be dark."""
    if len(images) > 1 and contrast(images) > DOUBT:
        warnings.warn(
            "the particles look bright where they should look dark: check the sign of the contrast (--data.invert)",
            stacklevel=2,
        )
