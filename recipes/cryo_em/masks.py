"""Masks for maps: a hard core, grown by some voxels, with a soft edge."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor


def soft_mask(core: Tensor, dilate: float = 0.0, edge: float = 3.0) -> Tensor:
    """A mask of 1 on a core and near it, which falls to 0 as half a cosine.

    An FSC of masked maps needs the soft edge: a hard one correlates the maps at all frequencies.

    Args:
        core: Bool (D, D, D), not empty.
        dilate: Voxels by which the core grows, at least 0.
        edge: Voxels over which the mask falls, at least 0.

    Returns:
        Float32 (D, D, D) in [0, 1].

    Raises:
        ValueError: An empty core or a negative width.
        ImportError: scipy is missing.

    Example:
        >>> core = torch.zeros(9, 9, 9, dtype=torch.bool)
        >>> core[4, 4, 4] = True
        >>> [round(x, 2) for x in soft_mask(core, dilate=1, edge=2)[4, 4, 4:].tolist()]
        [1.0, 1.0, 0.5, 0.0, 0.0]
    """
    if not core.any():
        raise ValueError("the mask is empty: lower the threshold, or see whether the contrast is inverted")
    if dilate < 0 or edge < 0:
        raise ValueError(f"dilate={dilate}, edge={edge}: want numbers of voxels, at least 0")
    try:
        from scipy.ndimage import distance_transform_edt
    except ImportError as error:
        raise ImportError("masks need scipy: pip install 'lightning-cim[cryo]'") from error
    distance = np.asarray(distance_transform_edt(~core.cpu().numpy()), dtype=np.float64)
    beyond = (distance - dilate) / edge if edge else np.where(distance > dilate, 1.0, 0.0)
    return torch.from_numpy((0.5 + 0.5 * np.cos(math.pi * beyond.clip(0, 1))).astype(np.float32))


def density_mask(volume: Tensor, level: float = 0.12, dilate: float = 2.0, edge: float = 3.0) -> Tensor:
    """A soft mask of where a map is dense, after smoothing over 3 x 3 x 3 voxels.

    Args:
        volume: (D, D, D), density positive.
        level: Of the smoothed map's 99.9th percentile, in (0, 1).
        dilate: Voxels by which the dense region grows.
        edge: Voxels over which the mask falls.

    Returns:
        Float32 (D, D, D) in [0, 1].

    Raises:
        ValueError: A level outside (0, 1), or no density.
    """
    if not 0 < level < 1:
        raise ValueError(f"level={level}: want a fraction of the map's maximum, in (0, 1)")
    smooth = torch.nn.functional.avg_pool3d(volume.float()[None, None], 3, stride=1, padding=1)[0, 0]
    top = np.quantile(smooth.cpu().numpy(), 0.999)
    if top <= 0:
        raise ValueError("the map has no positive density: its contrast is inverted, or it is empty")
    return soft_mask(smooth > level * float(top), dilate, edge)


def sphere(size: int, radius: float) -> Tensor:
    """Bool (D, D, D): the voxels within ``radius`` voxels of the centre D//2."""
    line = (torch.arange(size) - size // 2).square()
    return line[:, None, None] + line[None, :, None] + line <= radius**2
