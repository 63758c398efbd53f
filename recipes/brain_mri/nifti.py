"""Scans from NIfTI files as volumes, and maps back to NIfTI on the grid of the file that they describe.

Scans are expected as the literature prepares them: skull stripped, bias field corrected, about upright. Orientation and
voxel size may be any; files are brought to the closest canonical (RAS) order, and written back in their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri.cache import cached
from recipes.brain_mri.layouts import Scan, find_scans
from recipes.brain_mri.preprocess import curvature_flow, resample, to_working_grid
from recipes.brain_mri.volume import NativeGrid, Volume

VERSION = 1
"""Of reading and preprocessing; part of the cache's key."""

_STRIPPED = 0.9  # of all voxels; an image above zero in more than that has its background still
_MISALIGNED_MM = 1.0  # MSLUB's lesions lie up to 0.4 mm off their images by their headers, and are right


class NiftiFolder(Sequence[Volume]):
    """Scans of one contrast as volumes, read one by one when asked for.

    Args:
        images: Folder, csv table or one file; see :func:`~recipes.brain_mri.layouts.find_scans`.
        masks: Folder of brain masks, if they lie apart. A scan without a mask is taken to be stripped: its brain is
            where it is above zero.
        segs: Folder of lesions, if they lie apart.
        contrast: "t1", "t2" or "flair".
        size: H and W of the volumes.
        lesion: What lesions are: "tumour", "ms" or None for healthy people.
        smooth: Curvature flow before everything else, three steps of 0.125, as pDDPM does.
        cache: Folder that keeps preprocessed volumes; None for none.

    Raises:
        ValueError: Nothing to be found; reading a volume may raise it, too.
    """

    def __init__(
        self,
        images: Path | str,
        masks: Path | str | None = None,
        segs: Path | str | None = None,
        contrast: str = "flair",
        size: int = 96,
        lesion: str | None = None,
        smooth: bool = False,
        cache: Path | str | None = None,
    ) -> None:
        brain, marked = (None if path is None else Path(path) for path in (masks, segs))
        self.scans = find_scans(Path(images), brain, marked, contrast)
        self.size, self.lesion, self.smooth, self.cache = size, lesion, smooth, cache

    def __len__(self) -> int:
        return len(self.scans)

    def __iter__(self) -> Iterator[Volume]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        scan = self.scans[index]
        files = [path for path in (scan.image, scan.mask, scan.seg) if path is not None]
        stamps = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
        key = {"nifti": VERSION, "files": stamps, "size": self.size, "smooth": self.smooth, "lesion": self.lesion}
        volume = cached(
            self.cache, f"nifti-{scan.name}", key, lambda: read_scan(scan, self.size, self.lesion, self.smooth)
        )
        return replace(volume, source=scan.image, native=native_grid(scan.image))


def read_scan(scan: Scan, size: int = 96, lesion: str | None = None, smooth: bool = False) -> Volume:
    """One scan as a volume.

    Args:
        scan: Its files.
        size: H and W of the volume.
        lesion: What its lesions are.
        smooth: Curvature flow before everything else.

    Returns:
        A volume with `source` and `native`.

    Raises:
        ValueError: A file that is no NIfTI, not 3-D, not finite, or of another grid than the image; no brain in the
            mask, or an image without a mask and without a background of zeros. The message names the file.
    """
    image, affine = _read(scan.image)
    flags: list[NDArray[np.bool_] | None] = []
    for path, what in ((scan.mask, "mask"), (scan.seg, "lesions")):
        if path is None:
            flags.append(None)
            continue
        values, other = _read(path)
        if values.shape != image.shape:
            raise ValueError(f"{path}: {what} of shape {values.shape}, but {scan.image} has {image.shape}")
        off = _distance(affine, other, image.shape)
        if off > _MISALIGNED_MM:
            raise ValueError(f"{path}: {what} lie up to {off:.1f} mm off {scan.image} by their affines; register them")
        flags.append(values > 0.5)
    mask, seg = flags
    if mask is None:
        mask = image > 0
        if mask.mean() > _STRIPPED:
            raise ValueError(
                f"{scan.image}: no mask, and {100 * mask.mean():.0f} % of the voxels are above zero, so the background"
                " is not removed; strip the skull, or give masks"
            )
    if smooth:
        image = curvature_flow(image)
    try:
        small, small_mask, small_seg, working = to_working_grid(image, mask, seg, affine, size)
    except ValueError as error:
        raise ValueError(f"{scan.mask or scan.image}: {error}") from error
    return Volume(scan.name, small, small_mask, small_seg, working, None, lesion, scan.image, native_grid(scan.image))


def native_grid(path: Path) -> NativeGrid:
    """The grid of a file, from its header alone.

    Raises:
        ValueError: It is no NIfTI file, or not 3-D.
    """
    image = _open(path)
    x, y, z = image.shape[:3]
    return NativeGrid(np.array(image.affine, dtype=np.float64), (x, y, z), image.header)


def write_map(volume: Volume, values: NDArray[np.generic], path: Path) -> Path:
    """Write a map of a volume as NIfTI, on the grid of the volume's file: its shape, its affine, its orientation.

    Outside the working grid the map is zero. A simulated volume has no file; its map has the volume's own grid.

    Args:
        volume: What the map is of.
        values: (H, W, D): bool is written as uint8 by nearest neighbour, numbers as float32 by linear interpolation.
        path: Ends in .nii or .nii.gz.

    Returns:
        The path.

    Raises:
        ValueError: Another shape than the volume's, values that are not finite, or another ending.
    """
    if values.shape != volume.image.shape:
        raise ValueError(f"{volume.name}: the map has shape {values.shape}, the volume {volume.image.shape}")
    if not np.isfinite(values.astype(np.float32)).all():
        raise ValueError(f"{volume.name}: the map has values that are not finite")
    if not path.name.endswith((".nii", ".nii.gz")):
        raise ValueError(f"{path}: a map's file ends in .nii or .nii.gz")
    nibabel = _nibabel()
    flags = values.dtype == np.bool_
    plain = values.astype(np.uint8 if flags else np.float32)
    affine, header, kind = volume.affine, None, nibabel.Nifti1Image
    if volume.native is not None:
        affine = volume.native.affine
        plain = resample(plain, volume.affine, affine, volume.native.shape, order=0 if flags else 1)
        header = volume.native.header.copy()
        if isinstance(header, nibabel.Nifti2Header):
            kind = nibabel.Nifti2Image
        header.set_data_dtype(plain.dtype)
        header["cal_min"] = header["cal_max"] = 0  # a viewer's window for the scan is none for a map
        header["descrip"] = b""
        header.extensions.clear()  # may hold the scan's DICOM fields, the patient's name among them
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(plain, affine, header), path)
    return path


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise ImportError("NIfTI files need nibabel: pip install 'lightning-cim[mri]'") from error
    return nibabel


def _open(path: Path) -> Any:
    nibabel = _nibabel()
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a NIfTI file ({error})") from error
    if not isinstance(image, nibabel.Nifti1Pair):  # NIfTI-2 is a subclass
        raise ValueError(f"{path}: a {type(image).__name__}, not a NIfTI file")
    shape = image.shape
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise ValueError(f"{path}: has shape {shape}; want one 3-D volume, so take one out of a series")
    if not np.isfinite(image.affine).all() or abs(np.linalg.det(image.affine[:3, :3])) < 1e-9:
        raise ValueError(f"{path}: its affine is not invertible: {np.array(image.affine).tolist()}")
    return image


def _read(path: Path) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values and affine in canonical order."""
    nibabel = _nibabel()
    image = _open(path)
    try:
        canonical = nibabel.as_closest_canonical(image)
        values = np.asarray(canonical.dataobj, dtype=np.float32)
    except (OSError, EOFError, ValueError, nibabel.filebasedimages.ImageFileError) as error:
        raise ValueError(f"{path}: cannot be read, perhaps cut off ({error})") from error
    values = values.reshape(values.shape[:3])
    bad = int(values.size - np.isfinite(values).sum())
    if bad:
        raise ValueError(f"{path}: {bad} voxels are NaN or infinite; replace them, by 0 if they lie outside the brain")
    return values, np.array(canonical.affine, dtype=np.float64)


def _distance(a: NDArray[np.float64], b: NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """How far two affines carry the same voxel apart at most, mm: the largest distance is at a corner."""
    corners = np.array([[*corner, 1] for corner in np.ndindex(2, 2, 2)]) * [*(np.array(shape) - 1), 1]
    return float(np.linalg.norm((corners @ (a - b).T)[:, :3], axis=1).max())
