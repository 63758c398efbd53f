"""Tissue maps of one anatomy: the MNI152 average brain that nilearn ships, or an ellipsoid.

The MNI152 maps are those of ICBM 2009a (Fonov et al., NeuroImage 54, 2011). nilearn's wheel holds the head, grey matter
and white matter at 1 mm; nothing is downloaded. It has no map of cerebrospinal fluid: that is what the two leave of the
brain mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri._ndimage import ndimage
from recipes.brain_mri.phantom import ellipsoid_tissues
from recipes.brain_mri.volume import centred_affine

Floats = NDArray[np.float32]

_MARGIN_MM = 6  # of nothing around the brain, so that sampling outside finds zeros
_DEEP_MM = 22  # fluid farther from the surface belongs to the ventricles, not to sulci


@dataclass(frozen=True)
class Anatomy:
    """Tissues of one brain on one grid.

    Attributes:
        fractions: (3, X, Y, Z) float32, cerebrospinal fluid, grey and white matter; their sum is 1 inside the brain.
        ventricle_mm: (X, Y, Z) float32, distance to the nearest ventricle.
        affine: (4, 4), indices to RAS millimetres; no rotation, cubes.
    """

    fractions: Floats
    ventricle_mm: Floats
    affine: NDArray[np.float64]

    @property
    def voxel(self) -> float:
        """Millimetres between voxels."""
        return float(self.affine[0, 0])

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of the box around the brain, RAS millimetres."""
        inside = np.argwhere(self.fractions.sum(0) > 0.5)
        middle: NDArray[np.float64] = self.affine[:3, :3] @ ((inside.min(0) + inside.max(0)) / 2) + self.affine[:3, 3]
        return middle


@lru_cache(maxsize=1)
def mni152() -> Anatomy:
    """The MNI152 average brain at 1 mm, cropped to the brain; about 65 MB, read once a process.

    Raises:
        ImportError: nilearn is not installed.
    """
    try:
        from nilearn import datasets
    except ImportError as error:
        raise ImportError(
            "simulated brains are made of the tissue maps that nilearn ships; "
            "pip install 'lightning-cim[mri]', or use the phantom source"
        ) from error
    images = [
        datasets.load_mni152_gm_template(resolution=1),
        datasets.load_mni152_wm_template(resolution=1),
        datasets.load_mni152_brain_mask(resolution=1),
    ]
    grey, white, mask = (np.asarray(image.dataobj, dtype=np.float32) for image in images)
    grey, white = grey * mask, white * mask
    fractions = np.stack([np.clip(mask - grey - white, 0, 1), grey, white])
    occupied = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    low = [max(int(found[0]) - _MARGIN_MM, 0) for found in occupied]
    high = [int(found[-1]) + 1 + _MARGIN_MM for found in occupied]
    affine = np.array(images[0].affine, dtype=np.float64)
    affine[:3, 3] += affine[:3, :3] @ low
    inner = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    return _with_ventricles(np.ascontiguousarray(fractions[(slice(None), *inner)]), affine)


def ellipsoid(size: int = 48) -> Anatomy:
    """The phantom's tissues as an anatomy: generation without nilearn, for tests."""
    fractions = ellipsoid_tissues(size, np.random.default_rng(0)).astype(np.float32)
    return _with_ventricles(fractions, centred_affine(fractions.shape[1:], 192 / size))


def _with_ventricles(fractions: Floats, affine: NDArray[np.float64]) -> Anatomy:
    voxel = float(affine[0, 0])
    # Padded: the brain may touch the edge of its file (MNI152 ends at the medulla), and that edge is not a surface.
    depth = ndimage.distance_transform_edt(np.pad(fractions.sum(0) > 0.5, 1, mode="edge"), sampling=voxel)
    fluid = (fractions[0] > 0.6) & (depth[1:-1, 1:-1, 1:-1] > _DEEP_MM)
    labels, count = ndimage.label(fluid)
    if count == 0:
        raise ValueError("the anatomy has no ventricles: no fluid lies deep inside the brain")
    sizes = np.bincount(labels.ravel())[1:]
    ventricles = np.isin(labels, 1 + np.flatnonzero(sizes >= sizes.max() / 20))
    distance = ndimage.distance_transform_edt(~ventricles, sampling=voxel)
    return Anatomy(fractions, distance.astype(np.float32), affine)
