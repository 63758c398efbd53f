"""An ellipsoid head, made by numpy alone: the data of unit tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri.volume import LESIONS, Volume, centred_affine, depth_of

# CSF, grey matter, white matter, lesion
INTENSITIES = {
    "t1": (0.15, 0.55, 0.82, 0.40),
    "t2": (0.95, 0.50, 0.36, 0.75),
    "flair": (0.15, 0.62, 0.52, 0.85),
}


def ellipsoid_tissues(size: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Tissue fractions of one head: a CSF shell, wavy grey matter, white matter and two ventricles.

    Args:
        size: H and W; D follows (:func:`~recipes.brain_mri.volume.depth_of`).
        rng: Draws the head's size, the waves of its cortex and its ventricles.

    Returns:
        (3, H, W, D) float32: CSF, grey and white matter; they sum to 1 inside the brain, to 0 outside.
    """
    grid = np.meshgrid(*(np.linspace(-1, 1, n) * n / size for n in (size, size, depth_of(size))), indexing="ij")
    x, y, z = (axis.astype(np.float32) for axis in grid)
    a, b, c = np.array([0.68, 0.85, 0.75]) * rng.normal(1, 0.03, 3)
    radius = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    theta, phase = np.arctan2(y, x), rng.uniform(0, 2 * np.pi, 2)
    waves = 0.03 * np.sin(11 * theta + phase[0] + 5 * z) + 0.02 * np.sin(17 * theta + phase[1] - 7 * z)

    def inside(level: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.clip(level * size / 3, 0, 1)  # an edge about three voxels wide, as partial volume makes it

    brain = radius < 1
    parenchyma, white = inside(0.93 + waves - radius), inside(0.78 + 1.5 * waves - radius)
    width, length = rng.uniform(0.07, 0.11), rng.uniform(0.26, 0.34)
    for side in (-1, 1):
        ventricle = inside(1 - np.sqrt(((x - side * 0.13) / width) ** 2 + (y / length) ** 2 + (z / 0.2) ** 2))
        parenchyma, white = parenchyma * (1 - ventricle), white * (1 - ventricle)
    return np.stack([brain * (1 - parenchyma), brain * (parenchyma - white * parenchyma), brain * white * parenchyma])


def phantom(
    seed: int = 0, size: int = 32, contrast: str = "flair", lesion: str | None = None, noise: float = 0.02
) -> Volume:
    """One ellipsoid volume; same arguments, same volume.

    Args:
        seed: The subject.
        size: H and W.
        contrast: "t1", "t2" or "flair".
        lesion: "tumour" (one ball), "ms" (several small ones) or None. The subject below it stays the same.
        noise: Standard deviation of the noise in the brain.

    Returns:
        A volume whose `seg` is empty, not None, where there is no lesion, and whose `healthy` is always there.

    Raises:
        ValueError: An unknown contrast or lesion.

    Example:
        >>> volume = phantom(seed=1, lesion="tumour")
        >>> volume.image.shape, bool(volume.seg.any()), bool((volume.image != volume.healthy)[~volume.seg].any())
        ((32, 32, 17), True, False)
    """
    if contrast not in INTENSITIES:
        raise ValueError(f"contrast is {contrast!r}; known are {', '.join(INTENSITIES)}")
    if lesion not in (None, *LESIONS):
        raise ValueError(f"lesion is {lesion!r}; known are {', '.join(LESIONS)} and None")
    rng = np.random.default_rng([seed, 0])
    tissues = ellipsoid_tissues(size, rng)
    mask = tissues.sum(0) > 0.5
    *normal, abnormal = INTENSITIES[contrast]
    disturbance = noise * rng.standard_normal(mask.shape)
    clean = np.tensordot(np.array(normal), tissues, axes=1)
    seg = (
        np.zeros_like(mask)
        if lesion is None
        else _balls(lesion, tissues[2] > 0.5, size, np.random.default_rng([seed, 1]))
    )

    def finish(values: NDArray[np.float64]) -> NDArray[np.float32]:
        return np.where(mask, np.clip(values + disturbance, 0, 1), 0).astype(np.float32)

    return Volume(
        name=f"phantom-{contrast}-{lesion or 'healthy'}-{seed}",
        image=finish(np.where(seg, abnormal, clean)),
        mask=mask,
        seg=seg,
        affine=centred_affine(mask.shape, 192 / size),
        healthy=finish(clean),
        lesion=lesion,
    )


def _balls(lesion: str, white: NDArray[np.bool_], size: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    count, low, high = (1, 0.07, 0.12) if lesion == "tumour" else (6, 0.02, 0.035)
    candidates = np.argwhere(white)
    points = np.indices(white.shape)
    seg = np.zeros_like(white)
    for centre in candidates[rng.choice(len(candidates), count, replace=False)]:
        radius = max(rng.uniform(low, high) * size, 0.5)
        seg |= ((points - centre[:, None, None, None]) ** 2).sum(0) <= radius**2
    return seg & white
