"""Maps from one subject's space to the template's: pose, free-form shape, and the push of a tumour.

All maps are arrays of points (3, H, W, D) in RAS millimetres that say where each voxel's tissue comes from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]

# Between subjects, after an affine registration has taken out most of size and pose.
_ROTATION_DEG, _SCALE, _SHIFT_MM = 2.5, 0.03, 2.0
_SHAPE_MM = ((5, 2.0), (13, 0.8))  # knots an axis, standard deviation of the displacement


def grid_points(affine: NDArray[np.float64], shape: Shape) -> Floats:
    """RAS millimetres of every voxel of a grid, (3, H, W, D).

    Example:
        >>> grid_points(np.diag([2.0, 2.0, 2.0, 1.0]), (2, 1, 1))[0].ravel().tolist()
        [0.0, 2.0]
    """
    indices = np.indices(shape, dtype=np.float32).reshape(3, -1)
    points = affine[:3, :3].astype(np.float32) @ indices + affine[:3, 3:].astype(np.float32)
    result: Floats = points.reshape(3, *shape)
    return result


def spline_field(rng: np.random.Generator, channels: int, shape: Shape, knots: int) -> Floats:
    """Smooth random fields of zero mean and unit variance: cubic B-splines on a coarse grid of knots.

    This is the free-form deformation of Rueckert et al., IEEE Trans. Med. Imaging 18 (1999), drawn at random.

    Args:
        rng: Draws the values at the knots.
        channels: Number of fields.
        shape: (H, W, D) of each.
        knots: Knots along each axis; two neighbours lie 1/(knots - 1) of the axis apart.

    Returns:
        (channels, H, W, D) float32.
    """
    control = rng.standard_normal((channels, *(knots + 2,) * 3), dtype=np.float32)
    bases = [_spline_basis(length, knots) for length in shape]
    fields: Floats = np.einsum("cxyz,hx,wy,dz->chwd", control, *bases, optimize=True).astype(np.float32)
    return fields


def _spline_basis(length: int, knots: int) -> Floats:
    """Weights (length, knots + 2) of the control points, each row of unit 2-norm so that variances stay 1."""
    position = np.linspace(0, knots - 1, length)[:, None] + 1
    distance = np.abs(position - np.arange(knots + 2))
    weights = np.where(distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6)
    basis: Floats = (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)
    return basis


def subject_map(rng: np.random.Generator, points: Floats, centre: NDArray[np.float64]) -> Floats:
    """Where in the template the tissue of each of a new subject's voxels lies.

    Args:
        rng: Draws the subject.
        points: (3, H, W, D), the subject's voxels in millimetres.
        centre: (3,), the fixed point of rotation and scale.

    Returns:
        (3, H, W, D) millimetres: a random rotation, scale and shift, then a free-form deformation.
    """
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(rng.normal(0, _ROTATION_DEG, 3))):
        turn = np.eye(3)
        i, j = (axis + 1) % 3, (axis + 2) % 3
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    matrix = matrix @ np.diag(rng.normal(1, _SCALE, 3))
    offset = centre + rng.normal(0, _SHIFT_MM, 3) - matrix @ centre
    shape: Shape = (points.shape[1], points.shape[2], points.shape[3])
    moved = (matrix.astype(np.float32) @ points.reshape(3, -1)).reshape(points.shape)
    moved += offset.astype(np.float32)[:, None, None, None]
    for knots, millimetres in _SHAPE_MM:
        moved += millimetres * spline_field(rng, 3, shape, knots)
    return moved


def mass_effect(points: Floats, centre: Floats, radius: float, push: float, reach: float, depth_mm: Floats) -> Floats:
    """Where tissue came from before a tumour pushed it outwards.

    The push is radial, largest at the tumour's edge, and dies away beyond it; near the skull, which does not give, it
    vanishes. So the ventricles and the midline shift while the outline of the brain stays.

    Args:
        points: (3, H, W, D) millimetres.
        centre: (3,), the tumour's.
        radius: Of the tumour, mm.
        push: Displacement at its edge, mm; below `reach` and `radius`, or tissue would fold over itself.
        reach: Distance beyond the edge, mm, over which the push falls to 1/e.
        depth_mm: (H, W, D), distance of each voxel to the brain's surface, zero outside.

    Returns:
        (3, H, W, D) millimetres.

    Raises:
        ValueError: The push is so large that the map would fold.
    """
    if not 0 <= push < min(radius, reach):
        raise ValueError(
            f"a push of {push:g} mm folds tissue; it must be below radius and reach ({radius:g}, {reach:g})"
        )
    away = points - centre[:, None, None, None]
    distance = np.sqrt((away**2).sum(0))
    size = push * np.where(distance < radius, distance / radius, np.exp(-(distance - radius) / reach))
    size *= 1 - np.exp(-depth_mm / (2 * push + 1e-6))
    result: Floats = points - away * (size / np.maximum(distance, 1e-6))
    return result


def sample(fields: Sequence[Floats] | Floats, affine: NDArray[np.float64], points: Floats) -> Floats:
    """Values of fields at points, trilinear; outside their grid the nearest edge's.

    Args:
        fields: (C, X, Y, Z) on the grid of `affine`.
        affine: (4, 4), indices to millimetres.
        points: (3, H, W, D) millimetres.

    Returns:
        (C, H, W, D) float32.
    """
    stack = torch.from_numpy(np.ascontiguousarray(np.stack(list(fields))))[None]
    inverse = np.linalg.inv(affine)
    scale = 2 / (np.array(stack.shape[2:]) - 1)
    matrix = torch.from_numpy((scale[:, None] * inverse[:3, :3]).astype(np.float32))
    offset = torch.from_numpy((scale * inverse[:3, 3] - 1).astype(np.float32))
    flat = torch.from_numpy(points.reshape(3, -1))
    unit = (matrix @ flat + offset[:, None]).flip(0).T.reshape(1, *points.shape[1:], 3)  # grid_sample wants z, y, x
    found = F.grid_sample(stack, unit, mode="bilinear", padding_mode="border", align_corners=True)
    result: Floats = found[0].numpy()
    return result
