"""Particle images with what is known of each: pose, microscope, and in a simulation the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.stack import ImageStack, Index, as_index

if TYPE_CHECKING:
    from recipes.cryo_em.truth import Truth

ORTHOGONAL = 1e-3
"""Largest element of ``R R^T - 1`` of an accepted rotation: files carry six digits."""


@dataclass(frozen=True)
class Particles:
    """``n`` images of one kind of particle.

    A camera sees ``x_cam = R x`` (column vectors x, y, z; voxel i lies at ``i - D//2``), integrates along z, and moves
    the image: ``image(y, x) = P(y - ty, x - tx)``.

    Args:
        images: Read as (b, D, D) float32, on demand where they lie on a disk.
        rotations: (n, 3, 3).
        shifts: ``(tx, ty)`` of each [pixels], (n, 2).
        ctf: None where the images have none to be undone.
        pixel_size: In Angstrom.
        labels: True conformation of each in [0, 1], (n,); simulated data only.
        truth: The true maps; simulated data only.
        half: Which half of the data each belongs to, 1 or 2, (n,); None where nobody split them.

    Raises:
        ValueError: If counts or shapes differ, a pose is not finite, or a matrix is no rotation.
    """

    images: ImageStack
    rotations: Tensor
    shifts: Tensor
    ctf: CTFParameters | None
    pixel_size: float
    labels: Tensor | None = None
    truth: Truth | None = None
    half: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if count == 0:
            raise ValueError("there are no particle images")
        for name, value, shape in (
            ("rotations", self.rotations, (count, 3, 3)),
            ("shifts", self.shifts, (count, 2)),
            *((("labels", self.labels, (count,)),) if self.labels is not None else ()),
            *((("halves", self.half, (count,)),) if self.half is not None else ()),
        ):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name} have shape {tuple(value.shape)}; {count} images need {shape}")
            if not bool(torch.isfinite(value).all()):
                bad = int((~torch.isfinite(value)).reshape(count, -1).any(1).nonzero()[0])
                raise ValueError(f"{name} of particle {bad} (counted from 0) are not finite")
        if self.ctf is not None and len(self.ctf) != count:
            raise ValueError(f"CTF parameters of {len(self.ctf)} images were given for {count}")
        if not 0 < self.pixel_size < float("inf"):
            raise ValueError(f"the pixel size is {self.pixel_size} Angstrom; give a positive one")
        error = (self.rotations @ self.rotations.mT - torch.eye(3)).abs().amax((1, 2))
        wrong = (error > ORTHOGONAL) | (torch.linalg.det(self.rotations) < 0)
        if bool(wrong.any()):
            raise ValueError(f"the matrix of particle {int(wrong.nonzero()[0])} (counted from 0) is no rotation")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> int:
        """Pixels D of an image's edge."""
        return self.images.size

    def subset(self, index: Index) -> Particles:
        """Some of the particles, in the order of ``index``; their images stay where they are."""
        rows = as_index(index, len(self))
        return replace(
            self,
            images=self.images.subset(rows),
            rotations=self.rotations[rows],
            shifts=self.shifts[rows],
            ctf=None if self.ctf is None else self.ctf[rows],
            labels=None if self.labels is None else self.labels[rows],
            half=None if self.half is None else self.half[rows],
        )
