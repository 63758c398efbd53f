"""Gaussians of any baseline as 16-bit numbers: eight each, 16 bytes a Gaussian, without entropy coding.

Shapes and colours are half-precision floats. Positions are 16-bit fractions of the picture's sides, with a quarter of a
side to spare around it, because half precision cannot tell neighbouring pixels apart beyond 2048.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.gaussian_image.baselines.envelope import opened, seal
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage
from recipes.gaussian_image.baselines.lig import Lig
from recipes.gaussian_image.baselines.plane import Form, Values, gaussians
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fields import pack, unpack
from recipes.gaussian_image.rasterizers import Rasterizer

MAGIC = b"\x93GHF"
BYTES = 16
"""A Gaussian's."""
LIMITS = {"sizes": 65535, "counts": 1 << 24}
_CELLS = 1 << 16
_SPARE = 0.25
"""Share of a side around the picture where positions may lie."""


@dataclass(frozen=True)
class HalfSettings:
    """First part of a file.

    Attributes:
        form: What shapes are.
        sizes: Height and width of each plane, one after the other; coarse first.
        counts: Gaussians of each plane.
        span: What 0 and 1 of the last plane's picture mean, where it is added to an enlarged coarse one.
    """

    form: Form
    sizes: tuple[int, ...]
    counts: tuple[int, ...]
    span: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.counts) <= 2 or len(self.sizes) != 2 * len(self.counts) or len(self.span) != 2:
            raise ValueError(f"{len(self.counts)} planes with {len(self.sizes)} sides: want one or two planes")
        if min(*self.sizes, *self.counts) < 1:
            raise ValueError("planes need pixels and Gaussians")


@dataclass(frozen=True)
class DecodedHalf:
    """What a file holds.

    Attributes:
        settings: Its planes.
        values: Gaussians of each plane.
    """

    settings: HalfSettings
    values: tuple[Values, ...]

    def render(self, draw: Rasterizer) -> Tensor:
        """Picture (H, W, 3), not clamped to [0, 1]."""
        sizes = self.settings.sizes
        if len(self.values) == 1:
            return draw(*gaussians(self.values[0], self.settings.form), *sizes)
        coarse, fine = self.values
        low, high = self.settings.span
        return Lig.join(
            draw(*gaussians(coarse, self.settings.form), *sizes[:2]),
            draw(*gaussians(fine, self.settings.form), *sizes[2:]),
            torch.tensor(low, dtype=torch.float32),
            torch.tensor(high, dtype=torch.float32),
        )


def encode(model: GaussianImage | Lig, path: str | PathLike[str] | None = None) -> bytes:
    """Write a model.

    Args:
        model: Its quantisers, if it has some, are not used.
        path: Where to write it; None: nowhere.

    Returns:
        The file's content.

    Raises:
        ValueError: Numbers that are not finite or beyond half precision, 65504.
    """
    planes = (model.plane,) if isinstance(model, GaussianImage) else model.planes
    span = (0.0, 1.0) if isinstance(model, GaussianImage) else (float(model.low), float(model.high))
    sizes = tuple(side for plane in planes for side in plane.size)
    settings = pack(HalfSettings(planes[0].form, sizes, tuple(len(plane.color) for plane in planes), span))
    parts = [_write(plane.values(), plane.size) for plane in planes]
    data = seal(MAGIC, settings, b"".join(parts))
    if path is not None:
        Path(path).write_bytes(data)
    return data


def decode(data: bytes) -> DecodedHalf:
    """Read a file.

    Raises:
        CodecError: A file that is damaged, cut short, of another kind or of another version; the message says where.
    """
    found, start = opened(data, MAGIC, "Gaussians of 16-bit numbers")
    settings = unpack(HalfSettings, found, LIMITS)
    body = data[start:]
    if len(body) != BYTES * sum(settings.counts):
        raise CodecError(f"{len(body)} bytes of {sum(settings.counts)} Gaussians; want {BYTES} each")
    values, start = [], 0
    for height, width, count in zip(settings.sizes[::2], settings.sizes[1::2], settings.counts, strict=True):
        values.append(_read(body[start : start + BYTES * count], (height, width)))
        start += BYTES * count
    return DecodedHalf(settings, tuple(values))


def rounded(values: Values, size: Sequence[int]) -> Values:
    """The Gaussians of a plane as a file holds them."""
    return _read(_write(values, size), size)


def _write(values: Values, size: Sequence[int]) -> bytes:
    xy, shape, color = (part.detach().cpu().double().numpy() for part in values)
    if not np.isfinite(xy).all():
        raise ValueError("a position is not finite: no file can hold it")
    share = (xy / [size[1], size[0]] + _SPARE) / (1 + 2 * _SPARE)
    places = np.clip(np.floor(share * _CELLS), 0, _CELLS - 1).astype("<u2")
    with np.errstate(over="ignore"):
        halves = np.concatenate([shape, color], 1).astype("<f2")
    if not np.isfinite(halves).all():
        raise ValueError("a shape or colour is not finite or beyond 65504: half precision cannot hold it")
    return places.tobytes() + halves.tobytes()


def _read(data: bytes, size: Sequence[int]) -> Values:
    count = len(data) // BYTES
    places = np.frombuffer(data, "<u2", 2 * count).reshape(-1, 2)
    halves = np.frombuffer(data, "<f2", 6 * count, 4 * count).reshape(-1, 6).astype(np.float32)
    if not np.isfinite(halves).all():
        raise CodecError("a shape or colour is not finite")
    xy = ((places + 0.5) / _CELLS * (1 + 2 * _SPARE) - _SPARE) * [size[1], size[0]]
    return Values(torch.from_numpy(xy).float(), torch.from_numpy(halves[:, :3]), torch.from_numpy(halves[:, 3:]))
