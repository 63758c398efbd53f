"""Classical codecs by Pillow on the same image: real bytes, quality and CPU time at several settings."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.gaussian_image.metrics import Quality, quality


@dataclass(frozen=True)
class Codec:
    """A codec of Pillow's.

    Attributes:
        format: Pillow's name.
        feature: What Pillow calls the library behind it.
        settings: From small to large files.
        options: Options of `Image.save` at a setting.
        setting: What the settings are.
    """

    format: str
    feature: str
    settings: tuple[float, ...]
    options: Callable[[float], dict[str, Any]]
    setting: str


CODECS: Mapping[str, Codec] = {
    "JPEG": Codec(
        "JPEG", "jpg", (5, 10, 20, 35, 50, 65, 80, 90, 95), lambda q: {"quality": int(q), "optimize": True}, "quality"
    ),
    "WebP": Codec("WEBP", "webp", (1, 10, 25, 45, 65, 80, 90, 95), lambda q: {"quality": q, "method": 6}, "quality"),
    "AVIF": Codec("AVIF", "avif", (10, 25, 40, 55, 70, 80, 90), lambda q: {"quality": int(q), "speed": 4}, "quality"),
    "JPEG 2000": Codec(
        "JPEG2000",
        "jpg_2000",
        (160, 80, 48, 32, 24, 16, 12, 8, 6),
        lambda ratio: {"quality_mode": "rates", "quality_layers": [ratio], "irreversible": True},
        "ratio",
    ),
}


@dataclass(frozen=True)
class Point:
    """One setting of one codec.

    Attributes:
        codec: Name in `CODECS`.
        setting: Quality, or for JPEG 2000 the compression ratio that was asked for.
        file_bytes: Length of the file.
        bpp: Bits of the file per pixel.
        quality: Of the decoded picture.
        encode_seconds: CPU time of the process, all threads.
        decode_seconds: Likewise.
    """

    codec: str
    setting: float
    file_bytes: int
    bpp: float
    quality: Quality
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True)
class Skipped:
    """A codec that was not run.

    Attributes:
        codec: Name in `CODECS`.
        reason: Why not.
    """

    codec: str
    reason: str


def measure(image: Tensor, codecs: Sequence[str] = tuple(CODECS)) -> list[Point | Skipped]:
    """Every setting of every codec on one image.

    Args:
        image: (H, W, 3) in [0, 1]; rounded to eight bits for the codecs, as they demand, and compared unrounded.
        codecs: Names in `CODECS`.

    Returns:
        Points codec by codec, from small to large files; for a codec that this Pillow lacks, why it was skipped.

    Raises:
        ValueError: An unknown codec.
        ImportError: Pillow is missing.
    """
    unknown = [name for name in codecs if name not in CODECS]
    if unknown:
        raise ValueError(f"no codec {unknown[0]!r}: take some of {', '.join(CODECS)}")
    pillow = _pillow()
    return [found for name in codecs for found in _measure(pillow, name, image)]


def _measure(pillow: Any, name: str, image: Tensor) -> Iterator[Point | Skipped]:
    codec = CODECS[name]
    if not pillow.features.check(codec.feature):
        yield Skipped(name, f"this Pillow ({pillow.__version__}) was built without {codec.feature}")
        return
    pixels = (image.clamp(0, 1) * 255).round().byte().cpu().numpy()
    picture = pillow.Image.fromarray(pixels)
    for setting in codec.settings:
        file = io.BytesIO()
        begin = time.process_time()
        try:
            picture.save(file, codec.format, **codec.options(setting))
        except (OSError, ValueError) as error:
            yield Skipped(name, f"{codec.setting} {setting:g} on {image.shape[0]} x {image.shape[1]} pixels: {error}")
            continue
        middle = time.process_time()
        decoded = np.array(pillow.Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
        end = time.process_time()
        size = len(file.getvalue())
        yield Point(
            codec=name,
            setting=setting,
            file_bytes=size,
            bpp=8 * size / (image.shape[0] * image.shape[1]),
            quality=quality(torch.from_numpy(decoded).float() / 255, image.cpu()),
            encode_seconds=middle - begin,
            decode_seconds=end - middle,
        )


def _pillow() -> Any:
    try:
        import PIL
        import PIL.features
        import PIL.Image
    except ImportError as error:
        raise ImportError("classical codecs need Pillow: pip install 'lightning-cim[sgi]'") from error
    return PIL
