"""What the files of all baselines begin with.

magic, four bytes | version, one byte | CRC-32 of what follows | length of settings, uint16 | settings | the rest
"""

from __future__ import annotations

import struct
import zlib

from recipes.gaussian_image.codec.errors import CodecError

VERSION = 1
_HEAD = struct.Struct("<4sBIH")
_LENGTH = struct.Struct("<H")


def seal(magic: bytes, settings: bytes, rest: bytes) -> bytes:
    """The whole file.

    Args:
        magic: Four bytes that tell the kind of file.
        settings: First part of the content.
        rest: What follows.
    """
    content = _LENGTH.pack(len(settings)) + settings + rest
    return magic + struct.pack("<BI", VERSION, zlib.crc32(content)) + content


def opened(data: bytes, magic: bytes, kind: str) -> tuple[bytes, int]:
    """Settings of a file, and where the rest begins.

    Args:
        data: The whole file.
        magic: As in :func:`seal`.
        kind: What the file should hold, for the message.

    Raises:
        CodecError: A file of another kind or version, damaged or cut short.
    """
    if data[: len(magic)] != magic:
        raise CodecError(f"not {kind}: the file does not begin with \\x{magic[0]:x}{magic[1:].decode()}")
    if len(data) < _HEAD.size:
        raise CodecError(f"the file ends at byte {len(data)}, before its settings")
    _, version, checksum, length = _HEAD.unpack_from(data)
    if version != VERSION:
        raise CodecError(f"file version {version}; this program reads version {VERSION}")
    begin = _HEAD.size - _LENGTH.size
    if zlib.crc32(data[begin:]) != checksum:
        raise CodecError(f"bytes {begin} to {len(data)}: damaged or cut short, the checksum differs")
    return data[_HEAD.size : _HEAD.size + length], _HEAD.size + length
