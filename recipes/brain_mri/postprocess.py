"""From a residual to an anomaly map, and from a binary map to lesions, as the released code of the paper does it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri._ndimage import ndimage

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)[:, :, None]
"""Four neighbours, in the slice."""
MEDIAN = 5
"""Edge of the median filter in voxels."""
SMALL = 7
"""Largest component that is dropped, in voxels."""


def anomaly_map(residual: Map, mask: Mask) -> Map:
    """Cut the brain's rim away and smooth with a median.

    The mask is eroded slice by slice, W // 25 times by the four-neighbour cross (3 times at a width of 96); the median
    is over 5 x 5 x 5 voxels, edges reflected, so slices must be contiguous.

    Args:
        residual: (H, W, D), at least 0.
        mask: The brain, (H, W, D).

    Returns:
        (H, W, D), no value larger than the residual's largest.

    Raises:
        ValueError: Shapes that differ, or that are not three-dimensional.
    """
    if residual.shape != mask.shape or residual.ndim != 3:
        raise ValueError(f"want residual and mask of one shape (H, W, D), got {residual.shape}, {mask.shape}")
    brain = eroded(mask)
    smooth = np.zeros(residual.shape, np.float32)
    if brain.any():
        box = tuple(_with_margin(np.flatnonzero(brain.any(axis=others))) for others in ((1, 2), (0, 2), (0, 1)))
        inside = np.where(brain[box], residual[box], 0).astype(np.float32, copy=False)
        smooth[box] = ndimage.median_filter(inside, size=MEDIAN, mode="reflect")
    return smooth


def _with_margin(indices: NDArray[np.intp]) -> slice:
    """From the first to the last, and as far as the median reaches: beyond, it is of zeros."""
    reach = MEDIAN // 2
    return slice(max(0, int(indices[0]) - reach), int(indices[-1]) + 1 + reach)


def eroded(mask: Mask) -> Mask:
    """The mask without its rim of W // 25 pixels, slice by slice.

    Args:
        mask: (H, W, D).

    Returns:
        (H, W, D).
    """
    times = mask.shape[1] // 25
    if times == 0:  # scipy would repeat until nothing changes
        return mask.astype(bool)
    rest: Mask = ndimage.binary_erosion(mask, CROSS, iterations=times)
    return rest


def remove_small(binary: Mask, voxels: int = SMALL) -> Mask:
    """Drop small connected components (26 neighbours).

    The released code compares the filled area; a hole needs 26 voxels around it, so for so small components that is
    the number of voxels.

    Args:
        binary: (H, W, D).
        voxels: Components of up to so many are dropped; at most 25.

    Returns:
        (H, W, D).

    Raises:
        ValueError: A limit for which holes would matter.

    Example:
        >>> binary = np.zeros((5, 5, 5), bool)
        >>> binary[0, 0, 0] = binary[2:4, 2:4, 2:4] = True
        >>> int(remove_small(binary).sum())
        8
    """
    if not 0 <= voxels <= 25:
        raise ValueError(f"voxels must lie in 0 .. 25, got {voxels}")
    labels, _ = ndimage.label(binary, np.ones((3, 3, 3), bool))
    keep = np.bincount(labels.ravel()) > voxels
    keep[0] = False
    kept: Mask = keep[labels]
    return kept
