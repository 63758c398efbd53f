r"""Quantised GaussianImage as one self-contained file.

    magic "\x93GIM" | version, one byte | CRC-32 of what follows | length of settings, uint16 | settings
    | lowest level and step of each shape number, float32 | codebooks, float16 | tables, one byte an entry
    | range-coded stream

The stream holds positions (see `points`), then shapes column by column, then colours codebook by codebook, each column
under its own table of frequencies. The published codec gives each Gaussian 32 bits of position and keeps its order.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.gaussian_image.baselines.envelope import opened, seal
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage, GaussianImageConfig, cells, positions
from recipes.gaussian_image.baselines.plane import Values, gaussians
from recipes.gaussian_image.baselines.points import Ints, leaf_order, read_points, stream, write_points
from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fields import pack, unpack
from recipes.gaussian_image.rasterizers import Rasterizer

MAGIC = b"\x93GIM"
LIMITS = {"height": 65535, "width": 65535, "count": 1 << 24, "shape_bits": 16, "stages": 8, "entries": 4096}
GAUSSIANS_PER_BYTE = 64
"""A file cannot make a reader hold more Gaussians than this for each of its bytes."""


@dataclass(frozen=True)
class FileSettings:
    """First part of a file.

    Attributes:
        model: Sizes.
        numbers: CRC-32 of the decoded numbers: tells a decoder whose tables of probabilities differ.
    """

    model: GaussianImageConfig
    numbers: int


@dataclass(frozen=True)
class DecodedGaussianImage:
    """What a file holds.

    Attributes:
        config: Sizes.
        values: Its Gaussians, in the file's order.
    """

    config: GaussianImageConfig
    values: Values

    def render(self, draw: Rasterizer) -> Tensor:
        """Picture (H, W, 3), not clamped to [0, 1]."""
        return draw(*gaussians(self.values, "cholesky"), self.config.height, self.config.width)


def encode(model: GaussianImage, path: str | PathLike[str] | None = None) -> bytes:
    """Write a model.

    Args:
        model: Its quantisers are those that its fit ended with.
        path: Where to write it; None: nowhere.

    Returns:
        The file's content.

    Raises:
        ValueError: Quantisers that were not started, numbers that are not finite, or codebooks beyond half precision.
    """
    if not bool(model.ready):
        raise ValueError(
            "the quantisers have not seen the Gaussians: call start_quantisers, or fit with quantise_from < 1"
        )
    values = model.plane.values()
    for name, part in (*values._asdict().items(), ("codebooks", model.colors.books.half())):
        if not bool(part.isfinite().all()):
            raise ValueError(f"{name} cannot be written: NaN, infinite or, in codebooks, beyond 65504")
    found = cells(values.xy, model.config).numpy()
    order = leaf_order(found, *model.config.cells)
    found = found[order]
    symbols = torch.cat([model.shapes.symbols(values.shape), model.colors.symbols(values.color)], 1).numpy()[order]
    tables = [table_of(column, size) for column, size in zip(symbols.T, _sizes(model.config), strict=True)]
    coder = stream().queue.RangeEncoder()
    write_points(coder, found, *model.config.cells)
    for column, table in zip(symbols.T, tables, strict=True):
        coder.encode(column.astype(np.int32), _categorical(table))
    settings = pack(FileSettings(model.config, _checksum(found, symbols)))
    body = b"".join(
        [
            *(part.detach().cpu().numpy().astype("<f4").tobytes() for part in (model.shapes.lowest, model.shapes.step)),
            model.colors.books.detach().cpu().half().numpy().astype("<f2").tobytes(),
            *(table.tobytes() for table in tables),
            coder.get_compressed().astype(">u4").tobytes().rstrip(b"\0"),
        ]
    )
    data = seal(MAGIC, settings, body)
    if path is not None:
        Path(path).write_bytes(data)
    return data


def decode(data: bytes) -> DecodedGaussianImage:
    """Read a file.

    Raises:
        CodecError: A file that is damaged, cut short, of another kind or of another version; the message says where.
    """
    found, start = opened(data, MAGIC, "a quantised GaussianImage")
    settings = unpack(FileSettings, found, LIMITS)
    config = settings.model
    if config.count > GAUSSIANS_PER_BYTE * len(data):
        raise CodecError(f"{config.count} Gaussians in {len(data)} bytes: more than {GAUSSIANS_PER_BYTE} a byte")
    reader = _Bytes(data, start)
    lowest, step = (reader.floats("<f4", 3) for _ in range(2))
    books = reader.floats("<f2", config.stages * config.entries * 3).reshape(config.stages, config.entries, 3)
    tables = [np.frombuffer(reader.take(size), np.uint8) for size in _sizes(config)]
    coded = reader.rest()
    words = np.frombuffer(coded + b"\0" * (-len(coded) % 4), dtype=">u4").astype(np.uint32)
    coder = stream().queue.RangeDecoder(words)
    try:
        found = read_points(coder, config.count, *config.cells)
        columns = [np.asarray(coder.decode(_categorical(table), config.count)) for table in tables]
    except (AssertionError, ValueError) as error:
        raise CodecError(f"bytes {reader.position} to {len(data)}: the coded numbers are damaged ({error})") from error
    symbols = np.stack(columns, 1).astype(np.int64)
    if _checksum(found, symbols) != settings.numbers:
        raise CodecError("the file decodes to other numbers than were written; another version of constriction?")
    return DecodedGaussianImage(config, _values(found, symbols, lowest, step, books, config))


def _values(
    found: Ints,
    symbols: Ints,
    lowest: NDArray[Any],
    step: NDArray[Any],
    books: NDArray[Any],
    config: GaussianImageConfig,
) -> Values:
    """The Gaussians, by the model's own quantisers."""
    model = GaussianImage(
        GaussianImageConfig(1, 1, 1, config.xy_bits, config.shape_bits, config.stages, config.entries)
    )
    with torch.no_grad():
        model.shapes.lowest.copy_(torch.from_numpy(lowest))
        model.shapes.step.copy_(torch.from_numpy(step))
        model.colors.books.copy_(torch.from_numpy(books))
    chosen = torch.from_numpy(symbols)
    return Values(
        positions(torch.from_numpy(found), config),
        model.shapes.values(chosen[:, :3]),
        model.colors.values(chosen[:, 3:]),
    )


def _sizes(config: GaussianImageConfig) -> list[int]:
    """Symbols of each column: of three shape numbers, then of each codebook."""
    return [2**config.shape_bits] * 3 + [config.entries] * config.stages


def table_of(symbols: Ints, size: int) -> NDArray[np.uint8]:
    """Frequencies of symbols, the largest as 255; 0 only where a symbol does not occur.

    Example:
        >>> table_of(np.array([0, 0, 0, 2]), 4).tolist()
        [255, 0, 85, 0]
    """
    count = np.bincount(symbols, minlength=size)
    return (-(-count * 255 // count.max())).astype(np.uint8)  # in integers: a float above 255 would wrap to 0


def _categorical(table: NDArray[np.uint8]) -> Any:
    if not table.any():
        raise ValueError("a table of frequencies that are all 0")
    return stream().model.Categorical(table.astype(np.float64), perfect=False)


def _checksum(found: Ints, symbols: Ints) -> int:
    return zlib.crc32(np.concatenate([found, symbols], 1).astype("<i4").tobytes())


class _Bytes:
    """Takes bytes one part after another."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data = data
        self.position = position

    def take(self, count: int) -> bytes:
        part = self._data[self.position : self.position + count]
        if len(part) < count:
            raise CodecError(f"the file ends at byte {len(self._data)}, before byte {self.position + count}")
        self.position += count
        return part

    def floats(self, dtype: str, count: int) -> NDArray[Any]:
        values = np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype).astype(np.float32)
        if not np.isfinite(values).all():
            raise CodecError(f"a number before byte {self.position} is not finite")
        return values

    def rest(self) -> bytes:
        return self._data[self.position :]
