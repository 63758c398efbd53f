"""Part of an image at any size: Gaussians moved and scaled, no pixel resampled."""

from __future__ import annotations

import torch
from torch import Tensor

from recipes.gaussian_image.codec.blocks import Box
from recipes.gaussian_image.rasterizers.gaussians import CUT
from recipes.gaussian_image.structured import Gaussians

_BOX_VARIANCE = 1 / 12
"""Of a pixel, a box of side 1."""


def seen(gaussians: Gaussians, region: Box, size: tuple[int, int]) -> Gaussians:
    """Gaussians as they look when a region fills a picture.

    Where the picture is smaller than the region, each Gaussian is blurred by the part of a picture's pixel that a pixel
    of the region does not cover, as if pixels were averaged; else thin ones would fall between the pixels.

    Args:
        gaussians: In pixels of the full size.
        region: Of the full size.
        size: Height and width of the picture.
    """
    x0, y0, x1, y1 = region
    height, width = size
    if (x1 - x0, y1 - y0) == (width, height):
        return gaussians._replace(means=gaussians.means - gaussians.means.new_tensor([x0, y0]))
    scale = torch.tensor([width / (x1 - x0), height / (y1 - y0)], dtype=torch.float64)
    means = (gaussians.means.double() - torch.tensor([x0, y0], dtype=torch.float64)) * scale
    covariances = covariances_of(gaussians.conics) * torch.stack([scale[0] ** 2, scale.prod(), scale[1] ** 2])
    blur = (1 - scale**2).clamp_min(0) * _BOX_VARIANCE
    blurred = covariances + torch.stack([blur[0], blur.new_zeros(()), blur[1]])
    fading = (_determinant(covariances) / _determinant(blurred)).sqrt()
    return Gaussians(
        means.to(gaussians.means),
        _inverse(blurred).to(gaussians.conics),
        (gaussians.colors * fading[:, None]).to(gaussians.colors),
    )


def covariances_of(conics: Tensor) -> Tensor:
    """Covariances 11, 12, 22 of conics (N, 3), in float64.

    Example:
        >>> covariances_of(torch.tensor([[4.0, 0.0, 0.25]])).tolist()
        [[0.25, -0.0, 4.0]]
    """
    return _inverse(conics.double())


def reach(gaussians: Gaussians, size: tuple[int, int]) -> Box:
    """Box of pixels outside of which these Gaussians are below 1/255 and so not drawn, with a pixel to spare.

    Args:
        gaussians: In pixels.
        size: Height and width that the box is clipped to. (0, 0, 0, 0) where nothing is left.
    """
    height, width = size
    if not len(gaussians.means):
        return 0, 0, 0, 0
    half = (2 * CUT * covariances_of(gaussians.conics)[:, [0, 2]]).sqrt()
    means = gaussians.means.double()
    low = (means - half).amin(0).floor() - 1
    high = (means + half).amax(0).ceil() + 1
    limit = torch.tensor([width, height], dtype=torch.float64)
    x0, y0 = (int(value) for value in low.clamp_min(0).minimum(limit))
    x1, y1 = (int(value) for value in high.clamp_min(0).minimum(limit))
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else (0, 0, 0, 0)


def _inverse(symmetric: Tensor) -> Tensor:
    first, mixed, last = symmetric.unbind(-1)
    return torch.stack([last, -mixed, first], -1) / _determinant(symmetric)[:, None]


def _determinant(symmetric: Tensor) -> Tensor:
    return symmetric[:, 0] * symmetric[:, 2] - symmetric[:, 1] ** 2
