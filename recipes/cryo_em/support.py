"""The support: the voxels in which density is reconstructed."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn import functional as F

SMOOTHING = 3
"""Voxels a side of the box over which a consensus map is averaged before it is thresholded."""


def radius_of(size: int) -> int:
    """The largest radius in voxels at which every rotated voxel projects into the box.

    Example:
        >>> radius_of(32)
        15
    """
    return size // 2 - 1


def distances(size: int) -> Tensor:
    """Distance (D, D, D) of each voxel from the centre, in voxels."""
    axis = (torch.arange(size) - size // 2).float()
    return (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()


def sphere(size: int) -> Tensor:
    """The largest support, bool (D, D, D): where density may lie before anything is known."""
    return distances(size) <= radius_of(size)


def positions_of(mask: Tensor) -> Tensor:
    """Coordinates (M, 3) as (x, y, z), in voxels from the centre, of the voxels of a bool mask (D, D, D).

    Example:
        >>> mask = torch.zeros(4, 4, 4, dtype=torch.bool)
        >>> mask[2, 3, 1] = True  # z, y, x
        >>> positions_of(mask)
        tensor([[-1.,  1.,  0.]])
    """
    return (mask.nonzero().flip(1) - mask.shape[0] // 2).float()


def check(mask: Tensor, size: int) -> Tensor:
    """A mask as bool (D, D, D), held inside the sphere.

    Raises:
        ValueError: Another shape, or no voxel inside the sphere.
    """
    if tuple(mask.shape) != (size,) * 3:
        raise ValueError(f"the mask has shape {tuple(mask.shape)}; the particles need {(size,) * 3}")
    held = (mask > 0.5 if mask.is_floating_point() else mask.bool()) & sphere(size).to(mask.device)
    if not held.any():
        raise ValueError(f"the mask is empty inside the radius of {radius_of(size)} voxels around the centre")
    return held


def dilate(mask: Tensor, steps: int) -> Tensor:
    """A bool mask (D, D, D) grown by so many voxels in every direction."""
    grown = mask[None, None].float()
    for _ in range(steps):
        grown = F.max_pool3d(grown, 3, stride=1, padding=1)
    return grown[0, 0] > 0


def support_of(consensus: Tensor, threshold: float = 0.12, dilation: int = 1) -> Tensor:
    """The support of a consensus map.

    What moves much is faint in a consensus map, and a support that leaves it out can never get it back: dilation should
    be about the amplitude of the motion.

    Args:
        consensus: (D, D, D).
        threshold: Of the smoothed map, as a share of its 99.9 % quantile.
        dilation: Voxels by which the mask grows.

    Returns:
        bool (D, D, D), inside the sphere.

    Raises:
        ValueError: Nothing in the map is positive, such as when the contrast is inverted.

    Warns:
        UserWarning: The density reaches the sphere's edge, or fills so much of it that no molecule stands out.
    """
    size = consensus.shape[0]
    ball = sphere(size).to(consensus.device)
    smooth = F.avg_pool3d(consensus[None, None], SMOOTHING, 1, SMOOTHING // 2, count_include_pad=False)[0, 0]
    values = smooth[ball]
    level = values.kthvalue(max(1, round(0.999 * values.numel()))).values
    if level <= 0:
        raise ValueError("the consensus map is nowhere positive: is the contrast inverted (--data.invert)?")
    core = (smooth > threshold * level) & ball
    edge = distances(size).to(consensus.device) > radius_of(size) - 1
    if (core & edge).any():
        warnings.warn(
            "the consensus density reaches the edge of the box: the box is too small, or the threshold "
            f"({threshold}) too low; give a mask of your own with --model.mask=mask.mrc",
            stacklevel=2,
        )
    elif core.sum() > 0.5 * ball.sum():
        warnings.warn(
            f"more than half of the sphere is above the threshold ({threshold}) of the consensus map; raise it, or "
            "give a mask of your own with --model.mask=mask.mrc",
            stacklevel=2,
        )
    return dilate(core, dilation) & ball
