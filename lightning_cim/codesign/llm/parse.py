"""From the text of a reply to a design. The text may be anything, also hostile: it is read, never run or obeyed."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design, Space

LONGEST = 65_536
"""Characters of a reply; a design takes a few hundred."""

DEEPEST = 4
"""Braces and brackets inside each other."""

STARTS = 16
"""Opening braces from which an object is looked for."""

_PAIR = re.compile(r"([A-Za-z_]\w*)[ \t]*=[ \t]*([\w.+-]+)")
_LARGEST = 2.0**53


class ReplyError(ValueError):
    """A reply from which no design can be read; the message is fit to be sent back: one line, which quotes little."""


@dataclass(frozen=True)
class Parsed:
    """A design from a reply.

    Attributes:
        design: Allowed by the space.
        mended: What had to be repaired for that, one line each; empty if nothing.
    """

    design: Design
    mended: tuple[str, ...]


def parse_reply(text: str, space: Space) -> Parsed:
    """Read the first design in a reply.

    Taken are a JSON object, bare or in prose or in a fence, also as the one member of another; or a line of
    ``slot=value``. Text up to ``</think>`` is skipped. All slots must be there. Values that are not allowed become the
    nearest allowed ones, and are reported; what is no slot is dropped, and reported.

    Args:
        text: The reply.
        space: Of the design.

    Raises:
        ReplyError: There is no design; says why.

    Example:
        >>> from lightning_cim.codesign.space import Slot, Space
        >>> space = Space((Slot("kernel", (3, 5, 7)), Slot("adc_bits", (4, 5))))
        >>> parse_reply('Let us try {"kernel": 7, "adc_bits": 4}.', space).design
        {'kernel': 7, 'adc_bits': 4}
        >>> parse_reply("kernel=9, adc_bits=4", space).mended
        ('kernel: 9 is not allowed, now 7',)
    """
    if len(text) > LONGEST:
        raise ReplyError(f"the reply is longer than {LONGEST} characters")
    answer = text.rpartition("</think>")[2]
    problem: ReplyError | None = None
    for candidate in _objects(answer):
        try:
            return _design(_load(candidate), space)
        except ReplyError as error:
            problem = problem or error
    for line in answer.splitlines():
        pairs = _PAIR.findall(line)
        if {name for name, _ in pairs} & set(space.names):
            return _design(_unique([(name, _scalar(value)) for name, value in pairs]), space)
    raise problem or ReplyError("the reply holds no JSON object")


def _objects(text: str) -> Iterator[str]:
    """Balanced ``{...}`` from left to right, those inside others left out."""
    start = -1
    for _ in range(STARTS):
        start = text.find("{", start + 1)
        if start < 0:
            return
        end = _end(text, start)
        if end is not None:
            yield text[start:end]
            start = end - 1


def _end(text: str, start: int) -> int | None:
    """Where the object that begins at ``start`` is closed; braces in strings do not count."""
    depth, in_string, escaped = 0, False, False
    for place in range(start, len(text)):
        letter = text[place]
        if in_string:
            if escaped:
                escaped = False
            elif letter == "\\":
                escaped = True
            elif letter == '"':
                in_string = False
        elif letter == '"':
            in_string = True
        elif letter in "{[":
            depth += 1
            if depth > DEEPEST:
                raise ReplyError(f"the JSON of the reply is nested deeper than {DEEPEST} levels")
        elif letter in "}]":
            depth -= 1
            if depth == 0:
                return place + 1
    return None


def _load(candidate: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(
            candidate, object_pairs_hook=_unique, parse_constant=_not_finite, parse_float=_float, parse_int=_int
        )
    except json.JSONDecodeError as error:
        raise ReplyError(f"the reply is not JSON: {error.msg} at character {error.pos} of the object") from error
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ReplyError("the reply names a slot twice")
    return found


def _not_finite(word: str) -> NoReturn:
    raise ReplyError(f"the reply holds {word}, which is no number")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        _not_finite("an infinite number")
    if abs(value) > _LARGEST:
        raise ReplyError("the reply holds a number of absurd size")
    return value


def _int(digits: str) -> int:
    if len(digits) > 17 or abs(int(digits)) > _LARGEST:
        raise ReplyError("the reply holds a number of absurd size")
    return int(digits)


def _scalar(text: str) -> int | float | str:
    """The value of ``slot=value``: a number if it reads as one."""
    if re.fullmatch(r"[+-]?\d+", text):
        return _int(text)
    return _float(text) if re.fullmatch(r"[+-]?\d+\.\d*(?:[eE][+-]?\d+)?", text) else text


def _design(found: dict[str, Any], space: Space) -> Parsed:
    names = set(space.names)
    if not names & set(found) and len(found) == 1 and isinstance(inner := next(iter(found.values())), dict):
        found = inner
    if missing := [name for name in space.names if name not in found]:
        raise ReplyError(f"the design lacks {', '.join(missing)}")
    if len(found) > 2 * len(names) + 4:
        raise ReplyError(f"the design has {len(found)} entries instead of {len(names)}")
    for name in space.names:
        if isinstance(found[name], bool) or not isinstance(found[name], (int, float, str)):
            raise ReplyError(f"{name} must be one of its allowed values, not {_kind(found[name])}")
    repaired, mended = space.repair(found)
    return Parsed(repaired, tuple(mended))


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return "an object" if isinstance(value, Mapping) else "a list"
