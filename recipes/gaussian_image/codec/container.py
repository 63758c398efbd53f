r"""The file as sections, each with its length and checksum.

    magic "\x93SGI" | version, one byte | sections: length uint32, CRC-32 uint32, content | blocks

Little-endian throughout. The sections are, in this order, those of `SECTIONS`; the last lists the blocks that follow
it, with length, checksum and the image region that each reaches, so that a reader takes only those it needs.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from recipes.gaussian_image.codec.errors import CodecError

MAGIC = b"\x93SGI"
VERSION = 1
SECTIONS = ("settings", "networks", "hash grid", "index")
_HEAD = struct.Struct("<II")


@dataclass(frozen=True)
class Container:
    """A file taken apart.

    Attributes:
        sections: Content of each of `SECTIONS`, checked against its checksum.
        blocks: Everything behind them, unchecked.
    """

    sections: Mapping[str, bytes]
    blocks: memoryview

    def sizes(self) -> dict[str, int]:
        """Bytes of each part; they add up to the file's length.

        Example:
            >>> Container(dict.fromkeys(SECTIONS, b"ab"), memoryview(b"xyz")).sizes()["blocks"]
            3
        """
        return {
            "magic, lengths, checksums": len(MAGIC) + 1 + _HEAD.size * len(SECTIONS),
            **{name: len(content) for name, content in self.sections.items()},
            "blocks": len(self.blocks),
        }


def join(container: Container) -> bytes:
    """The file as bytes."""
    parts = [MAGIC, bytes([VERSION])]
    for name in SECTIONS:
        content = container.sections[name]
        parts += [_HEAD.pack(len(content), zlib.crc32(content)), content]
    return b"".join([*parts, container.blocks])


def split(data: bytes) -> Container:
    """Take a file apart.

    Raises:
        CodecError: Another kind of file, another version, cut short, or a section that differs from its checksum.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CodecError("not a structured Gaussian image: the file does not begin with \\x93SGI")
    if len(data) == len(MAGIC):
        raise CodecError("the file ends before its version")
    if data[len(MAGIC)] != VERSION:
        raise CodecError(f"file version {data[len(MAGIC)]}; this program reads version {VERSION}")
    position = len(MAGIC) + 1
    sections = {}
    for name in SECTIONS:
        if position + _HEAD.size > len(data):
            raise CodecError(f"the file ends at byte {len(data)}, before its {name}")
        length, checksum = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        content = data[position : position + length]
        if len(content) < length:
            raise CodecError(f"the file ends at byte {len(data)}, inside its {name} that goes to {position + length}")
        if zlib.crc32(content) != checksum:
            raise CodecError(f"{name}, bytes {position} to {position + length}: damaged, the checksum differs")
        sections[name] = content
        position += length
    return Container(sections, memoryview(data)[position:])
