"""Images to fit: by name from installed packages, or any file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

SKIMAGE = ("astronaut", "chelsea", "coffee", "hubble_deep_field", "immunohistochemistry", "retina", "rocket")
"""Colour photographs that scikit-image ships."""


def load(name: str) -> Tensor:
    """An image.

    Args:
        name: One of `SKIMAGE`; ``astronaut`` is 256 x 256, averaged over 2 x 2 pixels, and ``astronaut512`` the
            original. Anything else is the path of a file; transparency is laid on white, greys become colours.

    Returns:
        (H, W, 3) in [0, 1].

    Raises:
        ValueError: No such name or file, or a file that is not an image.
        ImportError: Pillow or scikit-image is missing.
    """
    if name in (*SKIMAGE, "astronaut512"):
        pixels = _scaled(_skimage(name.removesuffix("512")))
        return F.avg_pool2d(pixels.permute(2, 0, 1), 2).permute(1, 2, 0).contiguous() if name == "astronaut" else pixels
    return _scaled(_read(Path(name)))


def pyramid(image: Tensor, levels: int) -> list[Tensor]:
    """The image at each level, full size first, each half as large a side as the one before; bicubic as Pillow's.

    Args:
        image: (H, W, 3) in [0, 1].
        levels: How many.
    """
    height, width = image.shape[:2]
    planes = image.permute(2, 0, 1)[None]
    sizes = [(round(height / 2**level), round(width / 2**level)) for level in range(1, levels)]
    smaller = [F.interpolate(planes, size, mode="bicubic", antialias=True, align_corners=False) for size in sizes]
    return [image, *(part[0].permute(1, 2, 0).clamp(0, 1).contiguous() for part in smaller)]


def _scaled(pixels: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.array(pixels)).float() / 255


def _skimage(name: str) -> NDArray[np.uint8]:
    try:
        from skimage import data
    except ImportError as error:
        raise ImportError(f"the image {name!r} needs scikit-image: pip install 'lightning-cim[sgi]'") from error
    return np.asarray(getattr(data, name)())[..., :3]


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ImportError("images from files need Pillow: pip install 'lightning-cim[sgi]'") from error
    if not path.is_file():
        raise ValueError(f"{path}: no such image file; names of images that are installed: {', '.join(SKIMAGE)}")
    try:
        with Image.open(path) as picture:
            rgba = picture.convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"{path}: not an image that Pillow reads ({error})") from error
    white = Image.new("RGBA", rgba.size, "white")
    return np.asarray(Image.alpha_composite(white, rgba).convert("RGB"))
