"""Reading devices from TOML files; whatever is wrong with a file is a ValueError that names file and line."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from lightning_cim._tables import aligned
from lightning_cim.variation.conductance import Curve, Device, Polynomial, SaturatingExponential, Table, linear
from lightning_cim.variation.level_file import LARGEST, UNITS, decoded, shortened
from lightning_cim.variation.levels import LEVEL_RATIOS
from lightning_cim.variation.retention import Retention
from lightning_cim.variation.times import seconds

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NOT_OPTIONS = ("sigma", "shift", "min", "max", "valid", "note")
"""Keys of a [programming] entry that say what was measured; every other one says under which condition."""
_MODELS: dict[str, tuple[Callable[..., Curve], dict[str, bool]]] = {
    # The arguments of each, and whether they are lists.
    "constant": (lambda value: Polynomial((value,)), {"value": False}),
    "linear": (linear, {"intercept": False, "slope": False}),
    "polynomial": (Polynomial, {"coefficients": True, "reference": False}),
    "saturating_exponential": (SaturatingExponential, {"amplitude": False, "decay": False}),
    "table": (Table, {"conductances": True, "values": True}),
}
_OPTIONAL = ("reference",)


def _of_day(day: Any) -> float:
    if isinstance(day, bool) or not isinstance(day, (int, float)) or not 0 <= day <= LARGEST:
        raise ValueError(f"day must be a number of days >= 0, got {shortened(day)}")
    return 86400.0 * day


TIMES: dict[str, Callable[[Any], float]] = {"time": seconds, "day": _of_day}
"""Conditions that are times after programming, and how to read them in seconds."""


class DeviceFile:
    """A TOML file that describes one device.

    Args:
        label: What messages call the file.
        content: Its bytes.

    Attributes:
        name: The device's name.
        record: Everything in the file, also what is not used here: drift, read noise, notes.
        level_preset: Name of the ratio that :class:`~lightning_cim.LevelGaussian` knows the device by, or None.

    Raises:
        ValueError: With file and line, what is wrong there.

    Example:
        >>> file = DeviceFile("cell.toml", b'''
        ... name = "cell"
        ... conductance = { unit = "uS", min = 1.0, max = 50.0 }
        ... programming = { sigma = { model = "linear", intercept = 0.5, slope = 0.02 } }
        ... ''')
        >>> file.device({}).sigma_at(50.0)
        1.5
    """

    def __init__(self, label: str, content: bytes) -> None:
        self._label = label
        text = decoded(label, content)
        self._lines = text.split("\n")
        try:
            self.record: dict[str, Any] = tomllib.loads(text)
        except RecursionError:
            raise ValueError(f"{label}:1: nested too deeply to be a device") from None
        except ValueError as error:  # TOMLDecodeError, and what int() and datetime refuse
            found = re.search(r"at line (\d+)", str(error))
            at_end = "end of document" in str(error)
            line = int(found.group(1)) if found else max(1, len(self._lines)) if at_end else 1
            raise ValueError(f"{label}:{line}: not a TOML file: {error}") from None
        self.name = self._text("name")
        self.level_preset = self._text("level_preset") if "level_preset" in self.record else None
        self._entries: list[Mapping[str, Any]] = []
        if self.level_preset is not None and self.level_preset not in LEVEL_RATIOS:
            self._fail(
                f"level_preset must be one of {', '.join(LEVEL_RATIOS)}, got {self.level_preset!r}", "level_preset"
            )
        if self.level_preset is None:
            self._table("conductance")
            entries = self.record.get("programming")
            self._entries = [entries] if isinstance(entries, dict) else entries  # type: ignore[assignment]
            if not isinstance(self._entries, list) or not self._entries:
                self._fail("[programming] with sigma = { model = ... } is missing", "programming")
            for i, entry in enumerate(self._entries):
                self._device(i, entry)  # so that a bad entry is found whether or not it is asked for

    @property
    def options(self) -> dict[str, list[Any]]:
        """Conditions of measurement by name, with the values there are; the first ones are the default."""
        found: dict[str, list[Any]] = {}
        for entry in self._entries:
            for key, value in _conditions(entry).items():
                if value not in found.setdefault(key, []):
                    found[key].append(value)
        return found

    def device(self, conditions: Mapping[str, Any]) -> Device:
        """The device under some conditions: the first entry that meets them.

        Raises:
            ValueError: A condition that the file does not know, or a value that was not measured.
        """
        if self.level_preset is not None:
            raise ValueError(
                f"{self._label}: {self.name} is known by the ratio of its levels only; use"
                f" LevelGaussian.preset({self.level_preset!r}, sigma=...)"
            )
        known = self.options
        for key, value in conditions.items():
            if key not in known:
                has = f"its options are {', '.join(known)}" if known else "it has no options"
                raise ValueError(f"{self.name}: unknown option {key!r}; {has}")
            if value not in known[key]:
                values = ", ".join(map(repr, known[key]))
                raise ValueError(
                    f"{self.name}: {key} must be one of {values}, as nothing else was measured; got {value!r}"
                )
        for i, entry in enumerate(self._entries):
            if all(entry.get(key) == value for key, value in conditions.items()):
                return self._device(i, entry)
        measured = "; ".join(_listed(_conditions(entry)) for entry in self._entries)
        raise ValueError(f"{self.name}: not measured: {_listed(conditions)}; measured: {measured}")

    def retention(self, conditions: Mapping[str, Any]) -> Retention | None:
        """The device at all times at which it was measured, other conditions being equal; None where at one only.

        Args:
            conditions: As in :meth:`device`; a ``time`` or ``day`` among them makes no difference.
        """
        known = self.options
        key = next((name for name in TIMES if len(known.get(name, ())) > 1), None)
        if key is None:
            return None
        first = {name: values[0] for name, values in known.items() if name != key}
        fixed = {**first, **{name: value for name, value in conditions.items() if name != key}}
        measured = {}
        for i, entry in enumerate(self._entries):
            if all(entry.get(name) == value for name, value in fixed.items()):
                measured[self._seconds(key, entry[key], i)] = self._device(i, entry)
        return Retention(tuple(sorted(measured.items(), key=lambda pair: pair[0]))) if len(measured) > 1 else None

    @property
    def source(self) -> str:
        """Paper and figure in one line; empty where the file does not say."""
        source = self.record.get("source", {})
        if not isinstance(source, dict):
            return ""
        return ", ".join(str(source[key]) for key in ("paper", "figure") if key in source)

    def _seconds(self, key: str, value: Any, index: int) -> float:
        try:
            return TIMES[key](value)
        except ValueError as error:
            self._fail(str(error), "programming", index, key)

    def _device(self, index: int, entry: Any) -> Device:
        keys = ("programming", index)
        if not isinstance(entry, dict):
            self._fail("[programming] must be a table", *keys)
        conductance = self._table("conductance")
        unit = conductance.get("unit")
        if unit not in UNITS:
            self._fail(f"unit must be one of {', '.join(UNITS)}, got {unit!r}", "conductance", "unit")
        ends = {}
        for end in ("min", "max"):
            place = keys if end in entry else ("conductance",)
            ends[end] = self._number(entry.get(end, conductance.get(end)), *place, end)
        place = keys if "valid" in entry else ("conductance",)
        valid = entry.get("valid", conductance.get("valid"))
        if valid is not None:
            valid = self._numbers(valid, *place, "valid")
            if len(valid) != 2:
                self._fail(f"valid must be [lowest, highest], got {len(valid)} numbers", *place, "valid")
        conditions = _conditions(entry)
        for key, value in conditions.items():
            if not isinstance(value, (str, int, float)):
                self._fail(f"{key} must be a number or text, got {value!r}", *keys, key)
        sigma = self._curve(entry.get("sigma"), *keys, "sigma")
        shift = self._curve(entry["shift"], *keys, "shift") if "shift" in entry else None
        name = f"{self.name} ({_listed(conditions)})" if conditions else self.name
        try:
            return Device(name, unit, ends["min"], ends["max"], sigma, shift, valid, self.source)
        except ValueError as error:
            self._fail(str(error), *keys)

    def _curve(self, value: Any, *keys: str | int) -> Curve:
        if not isinstance(value, dict):
            self._fail(f"{keys[-1]} = {{ model = ... }} is missing or not a table", *keys)
        model = value.get("model")
        if not isinstance(model, str) or model not in _MODELS:
            self._fail(f"model must be one of {', '.join(_MODELS)}, got {model!r}", *keys, "model")
        make, arguments = _MODELS[model]
        given: dict[str, Any] = {}
        for name in value.keys() - {"model"}:
            if name not in arguments:
                self._fail(f"{model} knows {', '.join(arguments)}; not {name!r}", *keys, name)
        for name, is_list in arguments.items():
            if name in value:
                given[name] = (self._numbers if is_list else self._number)(value[name], *keys, name)
            elif name not in _OPTIONAL:
                self._fail(f"{model} needs {name}", *keys)
        try:
            return make(**given)
        except ValueError as error:
            self._fail(str(error), *keys)

    def _text(self, key: str) -> str:
        value = self.record.get(key)
        if not isinstance(value, str) or not value:
            self._fail(f'{key} = "..." is missing or not a text', key)
        return value

    def _table(self, key: str) -> Mapping[str, Any]:
        value = self.record.get(key)
        if not isinstance(value, dict):
            self._fail(f"[{key}] is missing or not a table", key)
        return value

    def _number(self, value: Any, *keys: str | int) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= LARGEST:
            self._fail(f"{keys[-1]} must be a number of at most {LARGEST:g}, got {shortened(value)}", *keys)
        return float(value)

    def _numbers(self, value: Any, *keys: str | int) -> tuple[float, ...]:
        if not isinstance(value, list):
            self._fail(f"{keys[-1]} must be a list of numbers, got {shortened(value)}", *keys)
        return tuple(self._number(item, *keys) for item in value)

    def _fail(self, message: str, *keys: str | int) -> NoReturn:
        raise ValueError(f"{self._label}:{self._line_of(keys)}: {message}")

    def _line_of(self, keys: Sequence[str | int]) -> int:
        """Number of the line where a key stands, or of the last one on the way to it that is found."""
        line = 0
        for i, key in enumerate(keys):
            if isinstance(key, int):
                continue
            pattern = re.compile(rf"""(^\s*\[+[^\]]*|^\s*|[{{,.]\s*)["']?\b{re.escape(key)}\b["']?\s*[\].=]""")
            repeats = keys[i + 1] if i + 1 < len(keys) else 0
            hits = [n for n in range(line, len(self._lines)) if pattern.search(self._lines[n])]
            if hits:
                line = hits[min(repeats, len(hits) - 1) if isinstance(repeats, int) else 0]
        return line + 1


class PresetList(tuple[str, ...]):
    """Names of presets; printed, a table of them."""

    __slots__ = ()

    def __str__(self) -> str:
        rows = [["name", "conductance", "sigma at max", "options (first: default)", "source"]]
        for name in self:
            file = preset_file(name)
            if file.level_preset is not None:
                ratio = f"{file.record['ratio']:g}"
                rows.append([name, f"levels differ {ratio} : 1", "", "sigma (needed)", file.source])
                continue
            device = file.device({})
            options = ", ".join(f"{key}={'|'.join(map(str, values))}" for key, values in file.options.items())
            span = f"{device.g_min:g} .. {device.g_max:g} {device.unit}"
            rows.append([name, span, f"{device.sigma_at(device.g_max):.3g}", options, file.source])
        return "\n".join(aligned(rows))

    __repr__ = __str__


def presets() -> PresetList:
    """Names of all device files of the package."""
    files = resources.files("lightning_cim.variation") / "presets"
    return PresetList(
        sorted(file.name.removesuffix(".toml") for file in files.iterdir() if file.name.endswith(".toml"))
    )


@lru_cache(maxsize=64)
def preset_file(name: str) -> DeviceFile:
    """The device file of a preset.

    Args:
        name: As in :func:`presets`.

    Raises:
        ValueError: Unknown name; the nearest ones are named.

    Example:
        >>> preset_file("pcm-nandakumar2019").record["drift"]["t0_s"]
        20.0
    """
    names = presets()
    if name not in names:
        near = difflib.get_close_matches(str(name).lower(), names, n=3, cutoff=0.3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known: {', '.join(names)}"
        raise ValueError(f"unknown device {name!r}; {hint} Measured.list() prints all")
    file = resources.files("lightning_cim.variation") / "presets" / f"{name}.toml"
    return DeviceFile(f"presets/{name}.toml", file.read_bytes())


def records(section: str, name: str, needs: Sequence[str] = ()) -> dict[str, Any]:
    """Everything in the file of a preset that has some section.

    Args:
        section: Such as ``"drift"``.
        name: The preset.
        needs: Keys of which the section has one or more, where a note alone is not enough.

    Raises:
        ValueError: Unknown name, or a device without the section; names those that have it.
    """

    def has(record: Mapping[str, Any]) -> bool:
        found = record.get(section)
        return found is not None and (not needs or any(key in found for key in needs))

    record = preset_file(name).record
    if not has(record):
        known = [other for other in presets() if has(preset_file(other).record)]
        raise ValueError(
            f"no {section.replace('_', ' ')} of {name} was published that this package knows; it knows that of"
            f" {', '.join(known)}"
        )
    return record


def file_at(path: str | PathLike[str]) -> DeviceFile:
    """A device file of one's own; see :class:`DeviceFile`."""
    return DeviceFile(str(path), Path(path).read_bytes())


def _conditions(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in NOT_OPTIONS}


def _listed(conditions: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in conditions.items())
