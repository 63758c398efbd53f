"""Stacks of images: in memory, or read from .mrcs files as they are asked for."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

Index: TypeAlias = "int | slice | Sequence[int] | np.ndarray[Any, Any] | Tensor"

OPEN_FILES = 16
CHUNK = 512


def as_index(index: Index, count: int) -> Tensor:
    """Whatever an array can be indexed with, as a LongTensor (b,) of values in [0, count).

    Raises:
        IndexError: If a value lies outside, or a mask has another length.

    Example:
        >>> as_index(slice(-2, None), 5), as_index([True, False, True], 3)
        (tensor([3, 4]), tensor([0, 2]))
    """
    if isinstance(index, slice):
        return torch.arange(count)[index]
    rows = torch.as_tensor(index)
    if rows.dtype == torch.bool:
        if rows.shape != (count,):
            raise IndexError(f"a mask of shape {tuple(rows.shape)} cannot choose among {count} images")
        return rows.nonzero()[:, 0]
    rows = rows.reshape(-1).to(torch.long)
    if rows.numel() and not (-count <= int(rows.min()) and int(rows.max()) < count):
        raise IndexError(f"image {int(rows.max())} was asked for; there are {count}, counted from 0")
    return rows % max(count, 1)


def chunks(rows: Tensor, size: int) -> list[Tensor]:
    """``rows`` in pieces of ``size``, the last perhaps shorter."""
    return [rows[first : first + size] for first in range(0, len(rows), size)]


class ImageStack(ABC):
    """``n`` square images, read on demand.

    Indexed with an int, a slice, a mask or integers it gives a float32 tensor (b, D, D); an int gives b = 1.
    """

    size: int

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, rows: Tensor) -> Tensor:
        """Images ``rows``, a LongTensor (b,) in [0, n), as float32 (b, D, D)."""

    def __getitem__(self, index: Index) -> Tensor:
        return self.read(as_index(index, len(self)))

    def subset(self, index: Index) -> ImageStack:
        """Some of the images, none of which is read now."""
        return _Subset(self, as_index(index, len(self)))

    def inverted(self) -> ImageStack:
        """The stack with every pixel times -1."""
        return _Affine(self, 0.0, -1.0)

    def standardised(self, invert: bool = False, sample: int = 4096) -> ImageStack:
        """The stack less its mean and over its standard deviation, times -1 where ``invert``.

        Both are those of all pixels of at most ``sample`` images, evenly spaced, read in pieces.

        Raises:
            ValueError: If the images are constant.
        """
        rows = torch.linspace(0, len(self) - 1, min(sample, len(self)), dtype=torch.float64).round().to(torch.long)
        total, square, pixels = 0.0, 0.0, 0
        for part in chunks(rows, CHUNK):
            images = self.read(part).to(torch.float64)
            total, square = total + float(images.sum()), square + float((images**2).sum())
            pixels += images.numel()
        mean = total / pixels
        deviation = max(square / pixels - mean**2, 0.0) ** 0.5
        if deviation <= 1e-7 * max(abs(mean), 1e-30):
            raise ValueError(f"the images are constant ({mean:g} everywhere): is this the right stack?")
        return _Affine(self, mean, -deviation if invert else deviation)

    def downsampled(self, size: int) -> ImageStack:
        """The stack with images of ``size`` pixels' edge, their higher frequencies cut off; see `fourier_crop`.

        Raises:
            ValueError: If ``size`` is above the stack's.
        """
        if not 4 <= size <= self.size:
            raise ValueError(f"images of {self.size} pixels cannot be downsampled to {size}")
        return self if size == self.size else _Downsampled(self, size)


class TensorStack(ImageStack):
    """Images in memory.

    Args:
        images: (n, D, D), any real dtype.

    Raises:
        ValueError: If they are not square or not finite.
    """

    def __init__(self, images: Tensor) -> None:
        if images.ndim != 3 or images.shape[1] != images.shape[2]:
            raise ValueError(f"images of shape {tuple(images.shape)} are no stack (n, D, D) of squares")
        self.images, self.size = images.to(torch.float32), images.shape[1]
        finite = torch.isfinite(self.images).flatten(1).all(1)
        if not bool(finite.all()):
            raise ValueError(f"image {int((~finite).nonzero()[0])} (counted from 0) has a pixel that is not finite")

    def __len__(self) -> int:
        return len(self.images)

    def read(self, rows: Tensor) -> Tensor:
        """Copies of images ``rows``."""
        return self.images[rows]


class MrcStack(ImageStack):
    """Images in .mrcs files, memory-mapped: only what is asked for is read.

    Args:
        files: Distinct .mrcs (or .mrc) files.
        file: Which of ``files`` each image lies in, LongTensor (n,); None for all images of all files in turn.
        place: Its place in that file, counted from 0, LongTensor (n,).

    Raises:
        ValueError: If a file is missing or no MRC file, holds fewer images than asked for, or sizes differ.
    """

    def __init__(self, files: Sequence[Path | str], file: Tensor | None = None, place: Tensor | None = None) -> None:
        self.files = [Path(name) for name in files]
        self._maps: OrderedDict[int, np.ndarray[Any, Any]] = OrderedDict()
        if not self.files:
            raise ValueError("no image files were named")
        counts = []
        for number, name in enumerate(self.files):
            shape = self._map(number).shape
            if number == 0:
                self.size = shape[1]
            if shape[1:] != (self.size, self.size):
                expected = f"{self.size} x {self.size}" if number else "a square"
                raise ValueError(f"{name}: images of {shape[1]} x {shape[2]} pixels; expected {expected}")
            counts.append(shape[0])
        count = torch.tensor(counts)
        if file is None or place is None:
            file = torch.repeat_interleave(torch.arange(len(counts)), count)
            place = torch.cat([torch.arange(n) for n in counts])
        self.file, self.place = file.to(torch.long), place.to(torch.long)
        outside = (self.place < 0) | (self.place >= count[self.file])
        if bool(outside.any()):
            row = int(outside.nonzero()[0])
            name, held = self.files[int(self.file[row])], int(count[self.file[row]])
            raise ValueError(f"{name}: image {int(self.place[row]) + 1} (from 1) was asked for; the file holds {held}")

    def _map(self, number: int) -> np.ndarray[Any, Any]:
        if number in self._maps:
            self._maps.move_to_end(number)
            return self._maps[number]
        self._maps[number] = open_map(self.files[number])
        if len(self._maps) > OPEN_FILES:
            self._maps.popitem(last=False)
        return self._maps[number]

    def __getstate__(self) -> dict[str, Any]:
        # A worker process maps the files anew; the arrays behind them would be sent whole.
        return {**self.__dict__, "_maps": OrderedDict()}

    def __len__(self) -> int:
        return len(self.file)

    def read(self, rows: Tensor) -> Tensor:
        """Images ``rows`` from their files."""
        images = np.empty((len(rows), self.size, self.size), dtype=np.float32)
        file, place = self.file[rows].numpy(), self.place[rows].numpy()
        for number in np.unique(file):
            here = np.flatnonzero(file == number)
            here = here[np.argsort(place[here], kind="stable")]  # forwards through the file
            images[here] = self._map(int(number))[place[here]]
        finite = np.isfinite(images).all((1, 2))
        if not finite.all():
            bad = int(np.flatnonzero(~finite)[0])
            raise ValueError(f"{self.files[file[bad]]}: image {place[bad] + 1} (from 1) has a pixel that is not finite")
        return torch.from_numpy(images)


class _Subset(ImageStack):
    def __init__(self, stack: ImageStack, rows: Tensor) -> None:
        self.stack, self.rows, self.size = stack, rows, stack.size

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, rows: Tensor) -> Tensor:
        return self.stack.read(self.rows[rows])


class _Affine(ImageStack):
    def __init__(self, stack: ImageStack, mean: float, scale: float) -> None:
        self.stack, self.mean, self.scale, self.size = stack, mean, scale, stack.size

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, rows: Tensor) -> Tensor:
        return (self.stack.read(rows) - self.mean) / self.scale


class _Downsampled(ImageStack):
    def __init__(self, stack: ImageStack, size: int) -> None:
        self.stack, self.size = stack, size

    def __len__(self) -> int:
        return len(self.stack)

    def read(self, rows: Tensor) -> Tensor:
        return fourier_crop(self.stack.read(rows), self.size)


def fourier_crop(images: Tensor, size: int) -> Tensor:
    """Images (b, D, D) with all frequencies cut off that fewer pixels cannot carry: (b, size, size).

    The centre ``D//2`` goes to ``size//2``; a constant image keeps its value. A pixel grows by D / size.
    """
    old, low = images.shape[-1], images.shape[-1] // 2 - size // 2
    spectrum = torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, (-2, -1))), (-2, -1))
    kept = spectrum[..., low : low + size, low : low + size]
    small: Tensor = torch.fft.fftshift(torch.fft.ifft2(torch.fft.ifftshift(kept, (-2, -1))), (-2, -1)).real
    return small * (size / old) ** 2


def _mrcfile() -> Any:
    try:
        import mrcfile
    except ImportError as error:
        raise ImportError(".mrc files need mrcfile: pip install 'lightning-cim[cryo]'") from error
    return mrcfile


def open_map(path: Path | str) -> np.ndarray[Any, Any]:
    """The images of an .mrcs file, memory-mapped read-only, (n, rows, columns).

    Raises:
        ValueError: If it is missing, compressed, damaged, or holds complex numbers.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file of images")
    if path.suffix in (".gz", ".bz2"):
        raise ValueError(f"{path}: a compressed stack cannot be read in pieces; decompress it first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files of the field's programs break header rules that do not concern pixels
        try:
            opened = _mrcfile().mmap(path, mode="r", permissive=True)
        except (ValueError, OSError, EOFError) as error:
            raise ValueError(f"{path}: not a readable MRC file ({error})") from error
    data = opened.data
    if data is None:
        raise ValueError(f"{path}: not a readable MRC file, or cut short")
    if np.iscomplexobj(data):
        raise ValueError(f"{path}: holds complex numbers; images are expected")
    if data.ndim not in (2, 3):
        raise ValueError(f"{path}: holds {data.ndim} dimensions; a stack of images is expected")
    images: np.ndarray[Any, Any] = np.asarray(data).view(np.ndarray)
    return images[None] if images.ndim == 2 else images


def pixel_size_of(path: Path | str) -> float:
    """Pixel size along x of an MRC file's header [Angstrom]; 0 where the header has none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with _mrcfile().open(path, header_only=True, permissive=True) as opened:
            return float(opened.voxel_size.x)


def write_mrcs(path: Path | str, stack: ImageStack, pixel_size: float, factor: float = 1.0) -> None:
    """Write a stack as float32, in pieces: it need not fit into memory.

    Args:
        path: To write; replaced only when complete.
        stack: The images.
        pixel_size: Angstrom.
        factor: Multiplies every pixel; -1 inverts the contrast.
    """
    path = Path(path)
    part = path.with_name(path.name + ".part")
    with _mrcfile().new_mmap(part, (len(stack), stack.size, stack.size), mrc_mode=2, overwrite=True) as opened:
        opened.set_image_stack()
        opened.voxel_size = pixel_size
        for rows in chunks(torch.arange(len(stack)), CHUNK):
            opened.data[rows[0] : rows[-1] + 1] = (stack.read(rows) * factor).numpy()
        opened.update_header_stats()
    part.replace(path)
