"""Seeds in square blocks, so that a crop decodes only the blocks that reach it.

A block is the seeds whose positions lie in one square of a regular grid, in the order of their numbers. Positions are
known before anything is decoded, so the file says nothing about membership. For each block that has seeds the index
holds 18 bytes: the stream's length and checksum, a checksum of the decoded numbers, and the box of pixels that the
block's Gaussians reach at full size.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fixed_point import Ints

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1: pixels x0 <= x < x1, y0 <= y < y1."""

_ENTRY = np.dtype([("length", "<u4"), ("checksum", "<u4"), ("numbers", "<u2"), ("box", "<u2", (4,))])


@dataclass(frozen=True)
class Block:
    """Index entry of one block.

    Attributes:
        length: Bytes of its stream.
        checksum: CRC-32 of them.
        numbers: Lower 16 bits of the CRC-32 of the decoded numbers: tells a decoder whose entropy model differs.
        box: Pixels that its Gaussians reach at full size; x0 = x1 where they reach none.
    """

    length: int
    checksum: int
    numbers: int
    box: Box


def side_for(height: int, width: int, seeds: int, seeds_per_block: int) -> int:
    """Side of squares that hold about `seeds_per_block` of `seeds` spread over an area, without slivers at its end.

    Example:
        >>> side_for(64, 64, seeds=1024, seeds_per_block=256), side_for(64, 64, seeds=600, seeds_per_block=512)
        (32, 64)
    """
    longer = max(height, width)
    squares = longer / math.sqrt(height * width * seeds_per_block / max(seeds, 1))
    return math.ceil(longer / max(1, round(squares)))


def members(positions: NDArray[np.float64], side: int) -> list[NDArray[np.int64]]:
    """Seeds of each non-empty square, squares row by row.

    Args:
        positions: (N, 2) x and y.
        side: Of a square, in the positions' unit.

    Example:
        >>> [block.tolist() for block in members(np.array([[0.5, 0.5], [9.0, 0.1], [1.0, 3.0]]), 4)]
        [[0, 2], [1]]
    """
    cell = np.floor_divide(positions, side).astype(np.int64)
    _, block = np.unique(cell[:, ::-1], axis=0, return_inverse=True)
    order = np.argsort(block.reshape(-1), kind="stable")
    counts = np.bincount(block.reshape(-1)) if len(positions) else np.zeros(0, dtype=np.int64)
    return np.split(order, np.cumsum(counts)[:-1]) if len(positions) else []


def meets(box: Box, other: Box) -> bool:
    """Whether two boxes share a pixel.

    Example:
        >>> meets((0, 0, 4, 4), (4, 0, 8, 4)), meets((0, 0, 5, 4), (4, 0, 8, 4))
        (False, True)
    """
    return max(box[0], other[0]) < min(box[2], other[2]) and max(box[1], other[1]) < min(box[3], other[3])


def checksum_of(numbers: Ints) -> int:
    """Lower 16 bits of the CRC-32 of decoded numbers."""
    return zlib.crc32(numbers.astype("<i4").tobytes()) & 0xFFFF


def write_index(blocks: Sequence[Block]) -> bytes:
    """Bytes of the index, 18 a block."""
    rows = [(block.length, block.checksum, block.numbers, block.box) for block in blocks]
    return np.array(rows, dtype=_ENTRY).tobytes()


def read_index(data: bytes, count: int, available: int) -> list[Block]:
    """The index of `count` blocks that lie in `available` bytes.

    Raises:
        CodecError: Another count, or streams that do not fill the bytes behind the index exactly.
    """
    if len(data) != count * _ENTRY.itemsize:
        raise CodecError(f"index: {len(data)} bytes for {count} blocks of seeds; want {count * _ENTRY.itemsize}")
    rows = np.frombuffer(data, dtype=_ENTRY)
    total = int(rows["length"].sum(dtype=np.int64))
    if total != available:
        what = "ends inside its blocks" if total > available else "goes on behind its blocks"
        raise CodecError(f"the file {what}: they take {total} bytes, {available} are there")
    return [Block(int(row["length"]), int(row["checksum"]), int(row["numbers"]), _box(row["box"])) for row in rows]


def _box(values: NDArray[np.uint16]) -> Box:
    x0, y0, x1, y1 = (int(value) for value in values)
    return x0, y0, x1, y1
