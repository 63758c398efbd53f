"""What a scanner makes of tissue: mean intensities, their regional differences, bias field, blur and Rician noise.

Mean intensities are in units of the brightest normal tissue. They and the regional differences are set by eye after
textbook images; nothing is fitted to a scan.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri._ndimage import ndimage
from recipes.brain_mri.deformation import spline_field

Floats = NDArray[np.float32]

_TISSUE_SPREAD = 0.04  # of each tissue's mean between subjects
_MOTTLE, _MOTTLE_MM = 0.03, 3.0  # of tissue within a subject
_BIAS = 0.10  # log-intensity, before the window brings it back to [0, 1]
_PSF_VOXELS = 0.45


@dataclass(frozen=True)
class Region:
    """An ellipsoid of the template, mirrored at the midline, where a tissue looks unlike its mean.

    Attributes:
        centre: Right-hand side, RAS millimetres of MNI152.
        radii: Half axes, mm, at which the effect is 1/e.
        tissue: 0 fluid, 1 grey, 2 white.
        gain: Relative change of intensity at the centre.
    """

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    tissue: int
    gain: float


@dataclass(frozen=True)
class Contrast:
    """One sequence.

    Attributes:
        tissues: Mean intensity of fluid, grey and white matter.
        surface: Intensity that fluid takes on at the brain's surface (meninges, vessels, what stripping left).
        regions: Where tissues differ from their mean.
    """

    tissues: tuple[float, float, float]
    surface: float
    regions: tuple[Region, ...]


_INSULA = ((38.0, 4.0, 0.0), (9.0, 20.0, 14.0))
_CINGULUM = ((4.0, 12.0, 34.0), (8.0, 34.0, 14.0))
_HIPPOCAMPUS = ((26.0, -18.0, -16.0), (11.0, 20.0, 9.0))
_MEDIAL_FRONTAL = ((4.0, 48.0, -4.0), (10.0, 14.0, 14.0))
_PALLIDUM = ((18.0, -3.0, -1.0), (6.0, 9.0, 6.0))
_PERITRIGONAL = ((28.0, -52.0, 18.0), (10.0, 16.0, 12.0))
_CORTICOSPINAL = ((24.0, -18.0, 18.0), (6.0, 8.0, 20.0))
_FOURTH_VENTRICLE = ((0.0, -46.0, -32.0), (14.0, 12.0, 16.0))
_BASAL_CISTERN = ((6.0, -10.0, -20.0), (20.0, 18.0, 14.0))
_CHOROID = ((22.0, -40.0, 8.0), (8.0, 8.0, 8.0))

CONTRASTS = {
    "t1": Contrast((0.15, 0.55, 0.82), 0.35, (Region(*_PALLIDUM, 1, 0.18), Region(*_CHOROID, 0, 1.2))),
    "t2": Contrast(
        (1.0, 0.49, 0.35),
        0.75,
        (
            Region(*_PALLIDUM, 1, -0.30),
            Region(*_INSULA, 1, 0.12),
            Region(*_HIPPOCAMPUS, 1, 0.12),
            Region(*_PERITRIGONAL, 2, 0.15),
            Region(*_CORTICOSPINAL, 2, 0.12),
            Region(*_FOURTH_VENTRICLE, 0, -0.25),  # flow void
            Region(*_CHOROID, 0, -0.25),
        ),
    ),
    "flair": Contrast(
        (0.12, 0.60, 0.48),
        0.62,
        (
            Region(*_INSULA, 1, 0.28),
            Region(*_CINGULUM, 1, 0.26),
            Region(*_HIPPOCAMPUS, 1, 0.30),
            Region(*_MEDIAL_FRONTAL, 1, 0.26),
            Region(*_PALLIDUM, 1, -0.20),
            Region(*_PERITRIGONAL, 2, 0.30),
            Region(*_CORTICOSPINAL, 2, 0.24),
            Region(*_FOURTH_VENTRICLE, 0, 3.0),  # inflow of fluid that was not inverted
            Region(*_BASAL_CISTERN, 0, 2.5),
            Region(*_CHOROID, 0, 3.5),
        ),
    ),
}


@dataclass(frozen=True)
class Look:
    """How one subject looks in one contrast; drawn once, so that a lesion changes nothing elsewhere.

    Attributes:
        contrast: The sequence.
        gains: (3,), of the tissues.
        regional: One factor a region, multiplying its gain.
        mottle: (H, W, D), texture of tissue.
        sheen: (H, W, D) in [0, 1], how much of the surface shows.
        bias: (H, W, D), the coil's sensitivity.
        noise: (2, H, W, D), of the two receiver channels.
    """

    contrast: Contrast
    gains: Floats
    regional: Floats
    mottle: Floats
    sheen: Floats
    bias: Floats
    noise: Floats


def draw_look(
    rng: np.random.Generator, contrast: Contrast, shape: tuple[int, int, int], voxel: float, noise: float
) -> Look:
    """One subject's look.

    Args:
        rng: Draws it.
        contrast: The sequence.
        shape: (H, W, D).
        voxel: Millimetres between voxels.
        noise: Standard deviation of each receiver channel; a subject's own is 0.75 to 1.5 times that.
    """
    gains = rng.normal(1, _TISSUE_SPREAD, 3).astype(np.float32)
    regional = rng.uniform(0.7, 1.3, len(contrast.regions)).astype(np.float32)
    sheen = np.clip(0.55 + 0.35 * spline_field(rng, 1, shape, 9)[0], 0, 1)
    bias = np.exp(_BIAS * spline_field(rng, 1, shape, 3)[0])
    mottle = 1 + _MOTTLE * smooth_noise(rng, shape, _MOTTLE_MM / voxel)
    level = noise * rng.uniform(0.75, 1.5)
    receivers = np.float32(level) * rng.standard_normal((2, *shape), dtype=np.float32)
    return Look(contrast, gains, regional, mottle, sheen, bias, receivers)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: float) -> Floats:
    """Gaussian noise, blurred by `sigma` voxels and scaled to unit variance again."""
    noise: Floats = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), sigma, truncate=3)
    noise /= noise.std()
    return noise


def tissue_signal(look: Look, fractions: Floats, template: Floats, depth_mm: Floats) -> Floats:
    """Signal of tissue before the scanner's own effects.

    Args:
        look: The subject's.
        fractions: (3, H, W, D), fluid, grey, white.
        template: (3, H, W, D), each voxel's place in the template, mm.
        depth_mm: (H, W, D), distance to the brain's surface.

    Returns:
        (H, W, D) float32.
    """
    means = np.array(look.contrast.tissues, dtype=np.float32) * look.gains
    signal = means[:, None, None, None] * fractions
    right, front, up = np.abs(template[0]), template[1], template[2]
    for region, factor in zip(look.contrast.regions, look.regional, strict=True):
        (x, y, z), (a, b, c) = region.centre, region.radii
        here = np.exp(-(((right - x) / a) ** 2) - ((front - y) / b) ** 2 - ((up - z) / c) ** 2)
        signal[region.tissue] *= 1 + region.gain * factor * here
    shine = look.sheen * np.exp(-((depth_mm / 4) ** 2))
    signal[0] += fractions[0] * shine * (look.contrast.surface - means[0])
    result: Floats = signal.sum(0) * look.mottle
    return result


def scan(look: Look, signal: Floats) -> Floats:
    """Magnitude image of a signal: bias field, point spread, Rician noise. (H, W, D) float32, not negative."""
    seen = ndimage.gaussian_filter(signal, _PSF_VOXELS, truncate=3) * look.bias + look.noise[0]
    magnitude: Floats = np.sqrt(seen**2 + look.noise[1] ** 2)
    return magnitude
