"""What the command line does with files."""

from __future__ import annotations

from pathlib import Path

import torch

from recipes.gaussian_image.codec.blocks import Box
from recipes.gaussian_image.codec.decoder import DecodedImage, decode
from recipes.gaussian_image.codec.encoder import SEEDS_PER_BLOCK, encode
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.module import load_structured
from recipes.gaussian_image.rasterizers import Backend, rasterizer
from recipes.gaussian_image.structured import StructuredImage


def encode_model(model: StructuredImage, path: Path, seeds_per_block: int = SEEDS_PER_BLOCK) -> str:
    """Write a file.

    Args:
        model: A fitted model.
        path: Of the file.
        seeds_per_block: About how many seeds are decoded together.

    Returns:
        One line: the file's size and what takes how much of it.

    Raises:
        ValueError: See `encode`.
    """
    data = encode(model, path, seeds_per_block)
    pixels = model.config.height * model.config.width
    return f"{path}: {len(data)} bytes, {8 * len(data) / pixels:.3f} bit/pixel ({_sizes(decode(data))})"


def encode_file(checkpoint: Path, path: Path, seeds_per_block: int = SEEDS_PER_BLOCK) -> str:
    """Write the file of a fit's checkpoint; see `encode_model`.

    Raises:
        ValueError: Not a checkpoint of this recipe, or see `encode`.
    """
    return encode_model(load_structured(checkpoint), path, seeds_per_block)


def decode_file(
    path: Path,
    picture: Path,
    region: Box | None = None,
    size: tuple[int, int] | None = None,
    level: int | None = None,
    backend: Backend = "auto",
) -> str:
    """Draw a file, or a part of it, as an image file.

    Args:
        path: Of the file.
        picture: Of the image to write; its ending says the format, PNG for choice.
        region: x0, y0, x1, y1 in pixels of the full size. Default: the whole image.
        size: Height and width of the picture. Default: the region's.
        level: Instead: the whole image at this level of training.
        backend: Of the rasterizer.

    Returns:
        One line: the picture's size and how much of the file was decoded for it.

    Raises:
        ValueError: The file is missing or damaged, the region or size impossible, or the ending unknown to Pillow.
        ImportError: Pillow or the backend is missing.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("writing pictures needs Pillow: pip install 'lightning-cim[sgi]'") from error
    if picture.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{picture}: not the ending of an image format; want for example .png")
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        image = decode(path.read_bytes())
        pixels = image.render(region, size, level, rasterizer(backend))
    except CodecError as error:
        raise CodecError(f"{path}: {error}") from error
    picture.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(picture)
    height, width = pixels.shape[:2]
    return f"{picture}: {height} x {width} pixels from {len(image.decoded)} of {len(image.blocks)} blocks"


def _sizes(image: DecodedImage) -> str:
    return ", ".join(f"{name} {count}" for name, count in image.sizes.items())
