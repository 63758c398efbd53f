"""One brain volume with its mask, its lesions and the way back to the file it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LESIONS = ("tumour", "ms")


@dataclass(frozen=True)
class NativeGrid:
    """The voxel grid of an input file, on which maps are written back.

    Attributes:
        affine: (4, 4), voxel indices to RAS millimetres, as stored.
        shape: Number of voxels along the file's own three axes.
        header: The file's NIfTI header, whose units and coordinate codes a written map keeps; None without a file.
    """

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]
    header: Any = None


@dataclass(frozen=True)
class Volume:
    """A preprocessed brain volume; axial slices lie along the last axis.

    Attributes:
        name: Unique within a data set.
        image: (H, W, D) float32 in [0, 1].
        mask: (H, W, D) bool, the brain.
        seg: (H, W, D) bool, the lesions; None where nobody has marked any.
        affine: (4, 4), indices of `image` to RAS millimetres.
        healthy: (H, W, D) float32, the same subject without lesion, same noise; simulated volumes only.
        lesion: "tumour", "ms", or None for a healthy subject.
        source: The image file.
        native: The grid of that file.

    Raises:
        ValueError: Shapes differ, or a value is not finite, outside [0, 1] or of another type.

    Example:
        >>> cube = np.zeros((4, 4, 2), dtype=np.float32)
        >>> Volume("a", cube, cube == 0, None, np.eye(4)).depth
        2
        >>> Volume("b", cube + 7, cube == 0, None, np.eye(4))
        Traceback (most recent call last):
        ValueError: b: image has values in [7, 7]; rescale it to [0, 1]
    """

    name: str
    image: NDArray[np.float32]
    mask: NDArray[np.bool_]
    seg: NDArray[np.bool_] | None
    affine: NDArray[np.float64]
    healthy: NDArray[np.float32] | None = None
    lesion: str | None = None
    source: Path | None = None
    native: NativeGrid | None = None

    def __post_init__(self) -> None:
        if self.image.ndim != 3:
            raise ValueError(f"{self.name}: image has shape {self.image.shape}; a volume is (H, W, D)")
        for what, values in (("image", self.image), ("healthy", self.healthy)):
            if values is not None:
                self._check(what, values, np.dtype(np.float32))
                if not np.isfinite(values).all():
                    raise ValueError(f"{self.name}: {what} has values that are not finite")
                if values.size and not 0 <= values.min() <= values.max() <= 1:
                    low, high = values.min(), values.max()
                    raise ValueError(f"{self.name}: {what} has values in [{low:g}, {high:g}]; rescale it to [0, 1]")
        for what, flags in (("mask", self.mask), ("seg", self.seg)):
            if flags is not None:
                self._check(what, flags, np.dtype(np.bool_))
        if self.affine.shape != (4, 4):
            raise ValueError(f"{self.name}: affine has shape {self.affine.shape}, not (4, 4)")
        if self.lesion not in (None, *LESIONS):
            raise ValueError(f"{self.name}: lesion is {self.lesion!r}; known are {', '.join(LESIONS)} and None")

    def _check(self, what: str, values: NDArray[Any], dtype: np.dtype[Any]) -> None:
        if values.shape != self.image.shape:
            raise ValueError(f"{self.name}: {what} has shape {values.shape}, image {self.image.shape}")
        if values.dtype != dtype:
            raise ValueError(f"{self.name}: {what} is {values.dtype}, not {dtype}")

    @property
    def depth(self) -> int:
        """The number of axial slices."""
        return int(self.image.shape[2])


def depth_of(size: int) -> int:
    """The number of axial slices that go with slices of `size` by `size`: 100 mm of 192 (96 gives 50).

    Example:
        >>> depth_of(96), depth_of(64)
        (50, 33)
    """
    return round(size * 50 / 96)


def centred_affine(shape: tuple[int, int, int], voxel: float) -> NDArray[np.float64]:
    """The RAS affine of a grid of cubes of `voxel` millimetres around the origin.

    Example:
        >>> centred_affine((3, 3, 1), 2.0)[:, 3].tolist()
        [-2.0, -2.0, 0.0, 1.0]
    """
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = [voxel * (1 - length) / 2 for length in shape]
    return affine
