"""Frozen dataclasses of numbers as bytes: the settings that a file carries.

Integers are zigzag varints, floats eight bytes, strings and tuples their length and content, nested dataclasses their
fields. The first two bytes are a checksum of the names and types of all fields, so that a file of a program with other
settings is told from a damaged one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from recipes.gaussian_image.codec.errors import CodecError

T = TypeVar("T")

_LONGEST = 255


def pack(settings: Any) -> bytes:
    """Bytes of a dataclass instance.

    Args:
        settings: Fields are int (64 bits), float, bool, str, a `Literal` of strings, tuples of these, or such
            dataclasses.

    Raises:
        TypeError: A field of another type.
    """
    writer = _Writer()
    writer.value(type(settings), settings)
    return struct.pack("<H", signature(type(settings))) + bytes(writer.data)


def unpack(cls: type[T], data: bytes, limits: Mapping[str, int]) -> T:
    """The dataclass that `pack` wrote.

    Args:
        cls: Of which `pack` got an instance.
        data: What `pack` gave.
        limits: Largest value of integer fields by name, nested ones too; checked before any dataclass sees it.

    Raises:
        CodecError: Bytes of another dataclass, too few or too many of them, or values that the dataclass refuses.
    """
    if len(data) < 2 or struct.unpack_from("<H", data)[0] != signature(cls):
        raise CodecError(f"settings: not the fields of this program's {cls.__name__}; written by another version")
    reader = _Reader(data, 2, limits)
    try:
        settings: T = reader.value(cls)
    except CodecError:
        raise
    except (ValueError, TypeError) as error:
        raise CodecError(f"settings: {error}") from error
    if reader.position != len(data):
        raise CodecError(f"settings: {len(data) - reader.position} bytes too many")
    return settings


def signature(cls: type) -> int:
    """Checksum, 16 bits, of the names and types of a dataclass's fields."""
    return zlib.crc32(_schema(cls).encode()) & 0xFFFF


def _schema(kind: Any) -> str:
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return "{" + ",".join(f"{field.name}:{_schema(hints[field.name])}" for field in fields(kind)) + "}"
    return "[" + _schema(_item(kind)) + "]" if get_origin(kind) is tuple else _scalar(kind).__name__


def _item(kind: Any) -> Any:
    """Type of a tuple's elements; all alike."""
    return get_args(kind)[0]


def _scalar(kind: Any) -> type:
    if get_origin(kind) is Literal:
        return str
    if kind not in (int, float, bool, str):
        raise TypeError(f"a setting of type {kind} cannot be written")
    return kind  # type: ignore[no-any-return]


class _Writer:
    def __init__(self) -> None:
        self.data = bytearray()

    def value(self, kind: Any, value: Any) -> None:
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            for field in fields(kind):
                self.value(hints[field.name], getattr(value, field.name))
        elif get_origin(kind) is tuple:
            self._sequence(value)
            for item in value:
                self.value(_item(kind), item)
        elif _scalar(kind) is float:
            self.data += struct.pack("<d", value)
        elif _scalar(kind) is str:
            self._sequence(value.encode())
            self.data += value.encode()
        else:
            self._integer(int(value))

    def _sequence(self, items: Sequence[Any]) -> None:
        if len(items) > _LONGEST:
            raise ValueError(f"a setting of {len(items)} parts; at most {_LONGEST} can be written")
        self._integer(len(items))

    def _integer(self, value: int) -> None:
        if not -(1 << 63) <= value < 1 << 63:
            raise ValueError(f"the setting {value} does not fit in 64 bits")
        rest = (value << 1) ^ (value >> 63)
        while rest > 0x7F:
            self.data.append(rest & 0x7F | 0x80)
            rest >>= 7
        self.data.append(rest)


class _Reader:
    def __init__(self, data: bytes, position: int, limits: Mapping[str, int]) -> None:
        self._data = data
        self._limits = limits
        self.position = position

    def value(self, kind: Any, name: str = "") -> Any:
        if is_dataclass(kind):
            hints = get_type_hints(kind)
            values = {field.name: self.value(hints[field.name], field.name) for field in fields(kind)}
            return kind(**values)  # type: ignore[operator]
        if get_origin(kind) is tuple:
            return tuple(self.value(_item(kind), name) for _ in range(self._length()))
        if _scalar(kind) is float:
            return struct.unpack("<d", self._take(8))[0]
        if _scalar(kind) is str:
            return self._take(self._length()).decode()
        number = self._integer()
        if number > self._limits.get(name, number):
            raise CodecError(f"settings: {name} = {number}; a file holds at most {self._limits[name]}")
        return _scalar(kind)(number)

    def _length(self) -> int:
        length = self._integer()
        if not 0 <= length <= _LONGEST:
            raise CodecError(f"settings: a length of {length} at byte {self.position}")
        return length

    def _integer(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
        raise CodecError(f"settings: an endless number at byte {self.position}")

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise CodecError(f"settings: end after {len(self._data)} bytes, wanted {end}")
        taken = self._data[self.position : end]
        self.position = end
        return taken
