"""Design spaces: named slots with finite lists of values."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lightning_cim._files import is_finite, short
from lightning_cim._tables import aligned

Value = int | float | str
Design = dict[str, Value]

PRESETS = ("lcda", "tab", "digits")
"""Names that :meth:`Space.preset` knows."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TEXT = re.compile(r"[A-Za-z_][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Slot:
    """One choice of a design.

    Attributes:
        name: A word of letters, digits and underscores.
        values: What may be chosen, in a sensible order (small to large): all numbers or all words, each once.
        unit: Of the values, such as ``"bit"``.
        about: One line for people and prompts.

    Raises:
        ValueError: The name or a value is none of these.

    Example:
        >>> Slot("adc_bits", (4, 5, 6), unit="bit").values
        (4, 5, 6)
    """

    name: str
    values: tuple[Value, ...]
    unit: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise ValueError(f"a slot's name is a word of letters, digits and underscores, got {short(self.name)}")
        if not self.values:
            raise ValueError(f"slot {self.name!r} has no values: give at least one")
        words = [isinstance(value, str) for value in self.values]
        if any(words) and not all(words):
            raise ValueError(f"slot {self.name!r} mixes numbers and words: {short(list(self.values))}")
        for value in self.values:
            if isinstance(value, bool) or not isinstance(value, int | float | str):
                raise ValueError(f"slot {self.name!r}: a value is a number or a word, got {short(value)}")
            if isinstance(value, str) and not _TEXT.fullmatch(value):
                raise ValueError(
                    f"slot {self.name!r}: a word starts with a letter and has no blanks, got {short(value)}"
                )
            if not isinstance(value, str) and not is_finite(value):
                raise ValueError(f"slot {self.name!r}: a number is finite, got {short(value)}")
        if len(set(self.values)) != len(self.values):
            raise ValueError(f"slot {self.name!r} lists a value twice: {short(list(self.values))}")

    @property
    def is_text(self) -> bool:
        """Whether the values are words."""
        return isinstance(self.values[0], str)

    @cached_property
    def _codes(self) -> dict[Value, int]:
        return {value: code for code, value in enumerate(self.values)}

    def code(self, value: Any) -> int:
        """Position of a value among :attr:`values`; 8.0 is 8, but True is not 1.

        Raises:
            ValueError: It is not allowed.
        """
        found = self._codes.get(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else None
        if found is None:
            raise ValueError(f"slot {self.name!r} has no value {value!r}: allowed are {_listed(self.values)}")
        return found

    def nearest(self, value: Any) -> Value:
        """The allowed value that a reply most likely meant.

        Numbers, also written as text or with a unit behind them (``"8 bit"``): the closest, the smaller of two that are
        as close. Words: the same without regard to case, blanks, ``-`` and ``_``. Anything else: the middle value.

        Example:
            >>> Slot("adc_bits", (4, 6, 8)).nearest("7 bit"), Slot("device", ("rram", "fefet")).nearest(" FeFET")
            (6, 'fefet')
        """
        if self.is_text:
            plain = {_plain(str(found)): found for found in self.values}
            return plain.get(_plain(str(value)), self._middle)
        number = _number(value)
        return self._middle if math.isnan(number) else min(self.values, key=lambda found: (_gap(found, number), found))

    @property
    def _middle(self) -> Value:
        return self.values[(len(self.values) - 1) // 2]


@dataclass(frozen=True)
class Space:
    """An ordered list of slots. Optimizers see vectors of codes or designs, and nothing else.

    Attributes:
        slots: With different names.
        name: Of the space, for reports.

    Raises:
        ValueError: No slot, or two of one name.

    Example:
        >>> space = Space((Slot("kernel", (3, 5, 7)), Slot("adc_bits", (4, 5))), "two")
        >>> space.cardinality, space.encode({"kernel": 7, "adc_bits": 4}), space.decode((0, 1))
        (6, (2, 0), {'kernel': 3, 'adc_bits': 5})
    """

    slots: tuple[Slot, ...]
    name: str = "space"

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", tuple(self.slots))
        if not self.slots:
            raise ValueError(f"the space {self.name!r} has no slots: give at least one")
        names = self.names
        if len(set(names)) != len(names):
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"the space {self.name!r} has several slots named {_listed(twice)}")

    @staticmethod
    def preset(name: str) -> Space:
        """A space that comes with the package.

        Args:
            name: ``"lcda"`` (after the seed paper, see the file), ``"tab"`` (1,250,235 designs, for benchmarks that
                know the optimum) or ``"digits"`` (for real training on 8x8 images).

        Example:
            >>> Space.preset("tab").cardinality
            1250235
        """
        if name not in PRESETS:
            raise ValueError(f"there is no design space {name!r}: presets are {_listed(PRESETS)}")
        return Space.from_yaml(Path(__file__).parent / "presets" / f"{name}.yaml")

    @staticmethod
    def from_yaml(path: str | PathLike[str]) -> Space:
        """Read a space from a YAML file, whose form is that of the presets.

        Raises:
            ValueError: With file and line, where the file is at fault.
            FileNotFoundError: There is no such file.
        """
        from lightning_cim.codesign.space_file import read_space

        return read_space(Path(path))

    @property
    def names(self) -> tuple[str, ...]:
        """Of the slots, in order."""
        return tuple(slot.name for slot in self.slots)

    @property
    def cardinality(self) -> int:
        """Number of designs."""
        return math.prod(len(slot.values) for slot in self.slots)

    def encode(self, design: Mapping[str, Any]) -> tuple[int, ...]:
        """Codes of a design, one a slot: positions among the slot's values.

        Raises:
            ValueError: As :meth:`validate`.
        """
        missing = [name for name in self.names if name not in design]
        unknown = [str(name) for name in design if name not in self.names]
        if missing or unknown:
            faults = [f"lacks {_listed(missing)}"] if missing else []
            faults += [f"has {_listed(unknown)}, which are no slots"] if unknown else []
            raise ValueError(f"the design {' and '.join(faults)}: the slots of {self.name!r} are {_listed(self.names)}")
        return tuple(slot.code(design[slot.name]) for slot in self.slots)

    def decode(self, codes: Sequence[int]) -> Design:
        """The design of a vector of codes.

        Raises:
            ValueError: A code is out of range, or there are more or fewer than slots.
        """
        if len(codes) != len(self.slots):
            raise ValueError(f"{len(codes)} codes for the {len(self.slots)} slots of {self.name!r}")
        for slot, code in zip(self.slots, codes, strict=True):
            if not 0 <= code < len(slot.values):
                raise ValueError(f"slot {slot.name!r} has codes 0 to {len(slot.values) - 1}, got {code}")
        return {slot.name: slot.values[code] for slot, code in zip(self.slots, codes, strict=True)}

    def sample(self, rng: np.random.Generator) -> Design:
        """A design drawn uniformly."""
        return self.decode([int(rng.integers(len(slot.values))) for slot in self.slots])

    def neighbours(self, design: Mapping[str, Any]) -> list[Design]:
        """All designs that differ in exactly one slot, slot by slot in order of values."""
        codes = self.encode(design)
        return [
            self.decode((*codes[:place], other, *codes[place + 1 :]))
            for place, slot in enumerate(self.slots)
            for other in range(len(slot.values))
            if other != codes[place]
        ]

    def designs(self) -> Iterator[Design]:
        """Every design, the last slot running fastest."""
        for values in itertools.product(*(slot.values for slot in self.slots)):
            yield dict(zip(self.names, values, strict=True))

    def validate(self, design: Mapping[str, Any]) -> None:
        """Refuse what is no design of this space.

        Raises:
            ValueError: A slot is missing, unknown or has a value that is not allowed (with those that are).
        """
        self.encode(design)

    def repair(self, design: Mapping[Any, Any]) -> tuple[Design, list[str]]:
        """The nearest design, slot by slot as :meth:`Slot.nearest`, and what was mended, one line each.

        A slot that is missing gets its middle value; what is no slot is dropped. A valid design comes back unchanged
        with an empty list.

        Raises:
            ValueError: It has none of the slots: there is nothing to repair.

        Example:
            >>> space = Space((Slot("kernel", (3, 5, 7)), Slot("adc_bits", (4, 5))))
            >>> space.repair({"kernel": 9, "adc_bits": 5, "colour": "red"})
            ({'kernel': 7, 'adc_bits': 5}, ['kernel: 9 is not allowed, now 7', "dropped 'colour': no such slot"])
        """
        if not isinstance(design, Mapping) or not set(self.names) & set(design):
            raise ValueError(f"nothing to repair: none of the slots of {self.name!r}, {_listed(self.names)}, is there")
        mended: list[str] = []
        repaired: Design = {}
        for slot in self.slots:
            if slot.name not in design:
                repaired[slot.name] = slot._middle
                mended.append(f"{slot.name}: missing, now {slot._middle}")
                continue
            value = design[slot.name]
            try:
                repaired[slot.name] = slot.values[slot.code(value)]
            except ValueError:
                repaired[slot.name] = slot.nearest(value)
                mended.append(f"{slot.name}: {_short(value)} is not allowed, now {repaired[slot.name]}")
        mended += [f"dropped {_short(name)}: no such slot" for name in design if name not in self.names]
        return repaired, mended

    def key(self, design: Mapping[str, Any]) -> str:
        """16 hexadecimal digits that are the same for equal designs, in whatever order their slots are written."""
        self.validate(design)
        canonical = {slot.name: slot.values[slot.code(design[slot.name])] for slot in self.slots}
        return hashlib.sha256(json.dumps(canonical, sort_keys=True).encode()).hexdigest()[:16]

    def to_line(self, design: Mapping[str, Any]) -> str:
        """A design on one line, as :meth:`to_gbnf` describes it.

        Example:
            >>> Space((Slot("kernel", (3, 5)), Slot("adc_bits", (4, 5)))).to_line({"adc_bits": 4, "kernel": 5})
            'kernel=5, adc_bits=4'
        """
        values = self.decode(self.encode(design))
        return ", ".join(f"{name}={value}" for name, value in values.items())

    def from_line(self, line: str) -> Design:
        """The design of a line of :meth:`to_line`; slots may be in any order.

        Raises:
            ValueError: A part is not ``slot=value``, or the design is not of this space.
        """
        design: Design = {}
        for part in line.strip().split(","):
            name, equals, text = (piece.strip() for piece in part.partition("="))
            if not equals or name in design:
                raise ValueError(f"expected each slot once as slot=value, separated by commas, got {_short(part)}")
            slot = next((slot for slot in self.slots if slot.name == name), None)
            design[name] = next((value for value in slot.values if str(value) == text), text) if slot else text
        return self.decode(self.encode(design))

    def to_json_schema(self) -> dict[str, Any]:
        """A schema of a design as a JSON object, in the strict form of structured outputs."""
        properties = {}
        for slot in self.slots:
            whole = all(isinstance(value, int) for value in slot.values)
            properties[slot.name] = {
                "type": "string" if slot.is_text else "integer" if whole else "number",
                "enum": list(slot.values),
                "description": f"{slot.about} [{slot.unit}]" if slot.unit else slot.about,
            }
        return {
            "type": "object",
            "properties": properties,
            "required": list(self.names),
            "additionalProperties": False,
        }

    def to_gbnf(self) -> str:
        r"""A llama.cpp grammar of exactly the lines of :meth:`to_line`.

        One compact line serves small models better than JSON, whose grammar is slow and which they copy from examples.

        Example:
            >>> print(Space((Slot("kernel", (3, 5)), Slot("adc_bits", (4, 5)))).to_gbnf())
            root ::= "kernel=" slot-1 ", adc_bits=" slot-2
            slot-1 ::= "3" | "5"
            slot-2 ::= "4" | "5"
        """
        parts = [
            f'"{", " if place > 1 else ""}{slot.name}=" slot-{place}' for place, slot in enumerate(self.slots, start=1)
        ]
        rules = [
            f"slot-{place} ::= " + " | ".join(f'"{value}"' for value in slot.values)
            for place, slot in enumerate(self.slots, start=1)
        ]
        return "\n".join([f"root ::= {' '.join(parts)}", *rules])

    def describe(self) -> str:
        """A table of the slots for people and prompts."""
        rows = [[slot.name, ", ".join(map(str, slot.values)), slot.unit, slot.about] for slot in self.slots]
        return "\n".join(aligned([["slot", "allowed values", "unit", "what"], *rows]))

    def anonymised(self) -> Space:
        """The same space with slots x1, x2, ... and words v1, v2, ..., which say nothing of what is designed.

        Codes mean the same in both: ``space.decode(hidden.encode(design))`` maps a design back.

        Example:
            >>> space = Space((Slot("device", ("rram", "fefet")), Slot("kernel", (3, 5))))
            >>> hidden = space.anonymised()
            >>> space.decode(hidden.encode({"x1": "v2", "x2": 5}))
            {'device': 'fefet', 'kernel': 5}
        """
        hidden = []
        for place, slot in enumerate(self.slots, start=1):
            words = tuple(f"v{n}" for n in range(1, len(slot.values) + 1))
            hidden.append(Slot(f"x{place}", words if slot.is_text else slot.values))
        return Space(tuple(hidden), "anonymous")


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names))


def _short(value: Any) -> str:
    """A reply's value for a message, which may be anything."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]", "", text).lower()


def _number(value: Any) -> float:
    """What a reply's value says in numbers; NaN if nothing."""
    if isinstance(value, str):
        found = re.match(r"\s*([+-]?\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)", value[:100])
        value = found.group(1) if found else "nan"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:  # a whole number of over 300 digits
        return math.inf if value > 0 else -math.inf


def _gap(value: Value, number: float) -> float:
    """Distance that tells values apart at an infinite number, too."""
    assert not isinstance(value, str)
    return -math.copysign(1, number) * value if math.isinf(number) else abs(value - number)
