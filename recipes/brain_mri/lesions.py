"""Simulated lesions: tumours that push the brain aside, and multiple-sclerosis plaques around the ventricles.

Geometry comes first and does not know the contrast: one subject has the same lesion in every contrast.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri._ndimage import ndimage
from recipes.brain_mri.contrast import smooth_noise

Floats = NDArray[np.float32]
Flags = NDArray[np.bool_]

# Range of a zone's mean, by contrast; a core is either old and like fluid, or solid.
_OEDEMA = {"t1": (0.44, 0.56), "t2": (0.64, 0.90), "flair": (0.60, 0.78)}
_SOLID = {"t1": (0.40, 0.52), "t2": (0.56, 0.78), "flair": (0.56, 0.72)}
_CORES = {"t1": (0.25, 0.45), "t2": (0.98, 0.50), "flair": (0.32, 0.58)}
_PLAQUE = {"t1": (0.40, 0.60), "t2": (0.64, 0.90), "flair": (0.70, 0.92)}

_ROUGHNESS, _ROUGHNESS_MM = 0.26, 6.0
_TEXTURE, _TEXTURE_MM = 0.12, 2.4
_EDGE_VOXELS = 0.6


@dataclass(frozen=True)
class Tumour:
    """A tumour's place and push.

    Attributes:
        centre: (3,), RAS millimetres.
        radius: Mean radius, mm.
        push: Displacement of the tissue at its edge, mm.
        reach: Distance over which that dies away, mm.
    """

    centre: Floats
    radius: float
    push: float
    reach: float


def draw_tumour(rng: np.random.Generator, points: Floats, white: Floats, depth_mm: Floats) -> Tumour:
    """A tumour of 12 to 26 mm radius, centred in white matter.

    Args:
        rng: Draws it.
        points: (3, H, W, D) millimetres; a centre lies at least 12 mm inside their box's floor and ceiling.
        white: (H, W, D), fraction of white matter.
        depth_mm: (H, W, D), distance to the brain's surface.

    Raises:
        ValueError: There is no white matter to place it in.
    """
    radius = float(rng.uniform(12, 26))
    height = points[2]
    inner = (height > height.min() + 12) & (height < height.max() - 12)
    places = np.argwhere((white > 0.6) & inner & (depth_mm > 0.6 * radius))
    if not len(places):
        raise ValueError("no place for a tumour: the anatomy has no white matter deep enough")
    centre = points[(slice(None), *places[rng.integers(len(places))])]
    push = float(rng.uniform(0.25, 0.5)) * radius
    return Tumour(centre, radius, push, reach=max(14.0, 1.5 * push))


def tumour_level(rng: np.random.Generator, tumour: Tumour, points: Floats, white: Floats, voxel: float) -> Floats:
    """How far out of the tumour each voxel is: below 1 inside, 0 near the centre; rough, with fingers in white matter.

    Args:
        rng: Draws the roughness.
        tumour: The tumour.
        points: (3, H, W, D) millimetres.
        white: (H, W, D), fraction of white matter after the push.
        voxel: Millimetres between voxels.
    """
    shape: tuple[int, int, int] = (white.shape[0], white.shape[1], white.shape[2])
    away = points - tumour.centre[:, None, None, None]
    axes = rng.uniform(0.8, 1.25, 3).astype(np.float32)
    distance = np.sqrt(((away / axes[:, None, None, None]) ** 2).sum(0)) / tumour.radius
    rough = _ROUGHNESS * smooth_noise(rng, shape, _ROUGHNESS_MM / voxel)
    # Oedema spreads in white matter and stops at cortex; the centre does not care.
    level: Floats = distance + np.clip(distance, 0, 1) * (rough + 0.4 * (0.6 - white))
    return level


def largest_component(flags: Flags) -> Flags:
    """The largest 6-connected component; all False stays all False."""
    labels, count = ndimage.label(flags)
    if count <= 1:
        return flags
    largest: Flags = labels == 1 + np.bincount(labels.ravel())[1:].argmax()
    return largest


def paint_tumour(
    rng: np.random.Generator, contrast: str, signal: Floats, level: Floats, seg: Flags, voxel: float
) -> Floats:
    """Signal with a tumour: textured oedema outside, solid tissue, and a core.

    Args:
        rng: Draws the zones' means and texture.
        contrast: "t1", "t2" or "flair".
        signal: (H, W, D) of the tissue around it.
        level: Of :func:`tumour_level`.
        seg: (H, W, D), the tumour.
        voxel: Millimetres between voxels.
    """
    oedema, solid = rng.uniform(*_OEDEMA[contrast]), rng.uniform(*_SOLID[contrast])
    core = rng.choice(_CORES[contrast]) * rng.normal(1, 0.05)
    has_core = rng.uniform(0.25, 0.5)
    values = np.where(level < has_core, core, np.where(level < 0.5 * (1 + has_core), solid, oedema)).astype(np.float32)
    shape: tuple[int, int, int] = (signal.shape[0], signal.shape[1], signal.shape[2])
    fine, coarse = (smooth_noise(rng, shape, scale / voxel) for scale in (_TEXTURE_MM, 3 * _TEXTURE_MM))
    values *= 1 + _TEXTURE * (0.7 * fine + 0.7 * coarse)
    return _blend(signal, values, seg)


def draw_plaques(
    rng: np.random.Generator, points: Floats, white: Floats, ventricle_mm: Floats, depth_mm: Floats
) -> list[Flags]:
    """Multiple-sclerosis plaques: 8 to 30 ellipsoids in white matter, most of them around the ventricles.

    They are longest away from the ventricle, as plaques along the medullary veins are ("Dawson's fingers"). About one
    in seven lies under the cortex instead.

    Args:
        rng: Draws them.
        points: (3, H, W, D) millimetres.
        white: (H, W, D), fraction of white matter.
        ventricle_mm: (H, W, D), distance to the ventricles.
        depth_mm: (H, W, D), distance to the brain's surface.

    Returns:
        One (H, W, D) mask a plaque.

    Raises:
        ValueError: There is no white matter to place them in.
    """
    places = np.argwhere(white > 0.7)
    if not len(places):
        raise ValueError("no place for plaques: the anatomy has no white matter")
    near, depth = ventricle_mm[tuple(places.T)], depth_mm[tuple(places.T)]
    weights = np.exp(-near / 5) / np.exp(-near / 5).sum()
    cortical = np.exp(-(((depth - 10) / 4) ** 2)) + 1e-9
    weights = 0.86 * weights + 0.14 * cortical / cortical.sum()
    outwards = np.array(np.gradient(ventricle_mm))
    plaques = []
    for centre in places[rng.choice(len(places), rng.integers(8, 31), p=weights)]:
        at = (slice(None), *centre)
        axis = outwards[at] / max(float(np.linalg.norm(outwards[at])), 1e-6)
        length, width = rng.uniform(2.6, 7.4), rng.uniform(1.8, 3.9)
        low = [max(int(c) - 6, 0) for c in centre]
        box = tuple(slice(a, int(c) + 7) for a, c in zip(low, centre, strict=True))
        away = points[(slice(None), *box)] - points[at][:, None, None, None]
        along = np.einsum("a,ahwd->hwd", axis, away)
        across2 = (away**2).sum(0) - along**2
        plaque = np.zeros(white.shape, dtype=bool)
        plaque[box] = (along / length) ** 2 + across2 / width**2 <= 1
        plaques.append(plaque)
    return plaques


def paint_plaques(rng: np.random.Generator, contrast: str, signal: Floats, plaques: list[Flags]) -> Floats:
    """Signal with plaques, each of its own brightness."""
    values = signal.copy()
    for plaque in plaques:
        values[plaque] = rng.uniform(*_PLAQUE[contrast])
    return _blend(signal, values, np.any(plaques, axis=0))


def _blend(signal: Floats, values: Floats, seg: Flags) -> Floats:
    """`values` inside, `signal` outside, with an edge as partial volume makes it."""
    inside = ndimage.gaussian_filter(seg.astype(np.float32), _EDGE_VOXELS, truncate=3)
    # Just outside the mask there is nothing to blend in but the nearest voxel inside.
    shell = (inside > 1e-3) & ~seg
    spread = np.where(seg, values, 0)
    weight = ndimage.gaussian_filter(spread.astype(np.float32), 1.0, truncate=2)
    share = ndimage.gaussian_filter(seg.astype(np.float32), 1.0, truncate=2)
    fill = np.where(shell, weight / np.maximum(share, 1e-3), values)
    blended: Floats = signal + inside * (fill - signal)
    return blended
