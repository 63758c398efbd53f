"""Simulated subjects: one anatomy, a shape and folding of each subject's own, a contrast, and a lesion or none.

A subject is a pure function of (seed, subject number, size) and, for how it looks, of contrast and noise; the lesion is
drawn apart from the rest, so that every lesion has its lesion-free counterpart.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri import contrast as contrasts
from recipes.brain_mri import lesions
from recipes.brain_mri._ndimage import ndimage
from recipes.brain_mri.anatomy import Anatomy
from recipes.brain_mri.deformation import grid_points, mass_effect, sample, subject_map
from recipes.brain_mri.preprocess import percentile_window
from recipes.brain_mri.volume import LESIONS, Volume, centred_affine, depth_of

Floats = NDArray[np.float32]

VERSION = 2
"""Of the generator; part of the cache's key. Raise it with every change that moves a voxel."""

_MARGIN = 4  # slices generated above and below, then cut off
_FOLDS = ((1.1, 2.6), (0.5, 3.0))  # strength and scale in mm of the folding of fluid and of white matter
_SHARPEN = 1.6
_SHAPE, _LOOK, _LESION = 0, 1, 2  # streams of a subject's random numbers


@dataclass(frozen=True)
class _Body:
    """One subject's tissue on the generation grid, before or after a tumour pushed it."""

    template: Floats
    fractions: Floats
    ventricle_mm: Floats


class SyntheticBrains:
    """Subjects drawn from one anatomy.

    Args:
        anatomy: Where the tissue comes from.
        size: H and W of the volumes, over 192 mm; D follows (:func:`~recipes.brain_mri.volume.depth_of`).
        contrast: "t1", "t2" or "flair".
        noise: Standard deviation of the receiver noise, in units of the brightest tissue.
        seed: Of the whole data set.

    Raises:
        ValueError: An unknown contrast, a size below 16 or a negative noise.
    """

    def __init__(
        self, anatomy: Anatomy, size: int = 96, contrast: str = "flair", noise: float = 0.02, seed: int = 0
    ) -> None:
        if contrast not in contrasts.CONTRASTS:
            raise ValueError(f"contrast is {contrast!r}; known are {', '.join(contrasts.CONTRASTS)}")
        if size < 16:
            raise ValueError(f"size is {size}; brains need at least 16 pixels")
        if noise < 0:
            raise ValueError(f"noise is {noise:g}; a standard deviation is not negative")
        self.anatomy, self.size, self.contrast, self.noise, self.seed = anatomy, size, contrast, noise, seed
        self._voxel = 192 / size
        self._shape = (size, size, depth_of(size) + 2 * _MARGIN)
        self._affine = centred_affine(self._shape, self._voxel)
        self._affine[:3, 3] += anatomy.centre
        self._points = grid_points(self._affine, self._shape)

    def volume(self, subject: int, lesion: str | None = None) -> Volume:
        """One subject.

        Args:
            subject: Its number; other numbers are other people.
            lesion: "tumour", "ms", or None for the subject in health.

        Returns:
            A volume with `seg` (empty in health) and `healthy`. The counterpart has the same noise and the same window
            of intensities; a tumour's differs from the image outside `seg` too, where tissue was pushed.

        Raises:
            ValueError: An unknown lesion.
        """
        if lesion not in (None, *LESIONS):
            raise ValueError(f"lesion is {lesion!r}; known are {', '.join(LESIONS)} and None")
        noises, body = self._subject(subject)
        brain = body.fractions.sum(0) > 0.5
        depth: Floats = ndimage.distance_transform_edt(brain, sampling=self._voxel).astype(np.float32)
        look = contrasts.draw_look(self._rng(subject, _LOOK), contrasts.CONTRASTS[self.contrast], self._shape,
                                   self._voxel, self.noise)  # fmt: skip
        clean = contrasts.tissue_signal(look, body.fractions, body.template, depth)
        signal, mask, seg = clean, brain, np.zeros_like(brain)
        rng = self._rng(subject, _LESION)
        if lesion == "tumour":
            tumour = lesions.draw_tumour(rng, self._points, body.fractions[2], depth)
            pushed = self._pushed(tumour, noises, body, depth)
            level = lesions.tumour_level(rng, tumour, self._points, pushed.fractions[2], self._voxel)
            mask = pushed.fractions.sum(0) > 0.5
            seg = lesions.largest_component((level < 1) & mask)
            signal = contrasts.tissue_signal(look, pushed.fractions, pushed.template, depth)
            signal = lesions.paint_tumour(rng, self.contrast, signal, level, seg, self._voxel)
        elif lesion == "ms":
            plaques = lesions.draw_plaques(rng, self._points, body.fractions[2], body.ventricle_mm, depth)
            signal = lesions.paint_plaques(rng, self.contrast, clean, plaques)
            seg = np.any(plaques, axis=0) & mask
        inner = (slice(None), slice(None), slice(_MARGIN, -_MARGIN))
        image = contrasts.scan(look, signal)[inner] * mask[inner]
        healthy = contrasts.scan(look, clean)[inner] * brain[inner]
        window = percentile_window(image, mask[inner])
        affine = self._affine.copy()
        affine[2, 3] += _MARGIN * self._voxel
        return Volume(
            name=f"synthetic-{self.contrast}-{lesion or 'healthy'}-{subject:05d}",
            image=window(image),
            mask=np.ascontiguousarray(mask[inner]),
            seg=np.ascontiguousarray(seg[inner]),
            affine=affine,
            healthy=window(healthy),
            lesion=lesion,
        )

    def _rng(self, subject: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, subject, stream])

    def _subject(self, subject: int) -> tuple[Floats, _Body]:
        """The noise of the subject's folding, and its body in health."""
        rng = self._rng(subject, _SHAPE)
        template = subject_map(rng, self._points, self.anatomy.centre)
        noises = np.stack([contrasts.smooth_noise(rng, self._shape, scale / self._voxel) for _, scale in _FOLDS])
        return noises, self._tissue(template, noises)

    def _pushed(self, tumour: lesions.Tumour, noises: Floats, body: _Body, depth: Floats) -> _Body:
        origin = mass_effect(self._points, tumour.centre, tumour.radius, tumour.push, tumour.reach, depth)
        moved = sample(np.concatenate([body.template, noises]), self._affine, origin)
        after = self._tissue(moved[:3], moved[3:])
        # Where nothing moved, nothing may change: interpolating twice would.
        still = np.abs(origin - self._points).max(0) < 0.02 * self._voxel
        return replace(after, fractions=np.where(still, body.fractions, after.fractions))

    def _tissue(self, template: Floats, noises: Floats) -> _Body:
        fields = np.concatenate([self.anatomy.fractions, self.anatomy.ventricle_mm[None]])
        *fractions, ventricle = sample(fields, self.anatomy.affine, template)
        folded = np.stack(fractions)
        inside = folded.sum(0)
        folded[0] *= np.exp(_FOLDS[0][0] * noises[0])
        folded[2] *= np.exp(_FOLDS[1][0] * noises[1])
        folded = np.clip(folded, 0, None) ** _SHARPEN
        folded *= np.clip(inside, 0, 1) / np.maximum(folded.sum(0), 1e-6)
        return _Body(template, folded, ventricle)
