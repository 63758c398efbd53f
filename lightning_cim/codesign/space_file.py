"""Design spaces from YAML files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from lightning_cim._files import text_of
from lightning_cim.codesign.space import Slot, Space

_SLOT_KEYS = ("name", "values", "unit", "about")


def read_space(path: Path) -> Space:
    """Read a space from a YAML file.

    Its form is::

        name: mine
        about: whatever it is for, optional
        slots:
          - {name: kernel, values: [3, 5, 7], unit: pixel, about: kernel of all layers}

    Raises:
        ValueError: With file and line, where the file is at fault.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no design space file {path}")
    try:
        root = yaml.compose(text_of(path), Loader=yaml.SafeLoader)
    except RecursionError:
        raise ValueError(f"{path}: nested too deeply to be a design space") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise ValueError(f"{_place(path, mark)}: no YAML: {getattr(error, 'problem', None) or error}") from error
    if root is None:
        raise ValueError(f"{path}: empty: a design space has a list of slots")
    entries = _entries(path, root, ("name", "about", "slots"), "a design space")
    if "slots" not in entries:
        raise ValueError(f"{_place(path, root.start_mark)}: a design space has a list of slots")
    listed = entries["slots"]
    if not isinstance(listed, yaml.SequenceNode):
        raise ValueError(f"{_place(path, listed.start_mark)}: slots is a list")
    slots: list[Slot] = []
    for node in listed.value:
        slot = _slot(path, node)
        if slot.name in [known.name for known in slots]:
            raise ValueError(f"{_place(path, node.start_mark)}: there is a slot {slot.name!r} above already")
        slots.append(slot)
    if not slots:
        raise ValueError(f"{_place(path, listed.start_mark)}: there are no slots: give at least one")
    return Space(tuple(slots), _text(path, "name", entries["name"]) if "name" in entries else path.stem)


def _slot(path: Path, node: yaml.Node) -> Slot:
    entries = _entries(path, node, _SLOT_KEYS, "a slot")
    place = _place(path, node.start_mark)
    for needed in ("name", "values"):
        if needed not in entries:
            raise ValueError(f"{place}: this slot has no {needed}")
    values = _value(path, entries["values"])
    if not isinstance(values, list):
        raise ValueError(f"{_place(path, entries['values'].start_mark)}: values is a list, such as [3, 5, 7]")
    texts = {key: _text(path, key, entries[key]) for key in ("unit", "about") if key in entries}
    try:
        return Slot(_value(path, entries["name"]), tuple(values), **texts)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{place}: {error}") from error


def _entries(path: Path, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
    if not isinstance(node, yaml.MappingNode):
        raise ValueError(f"{_place(path, node.start_mark)}: {what} has keys and values ({', '.join(known)})")
    entries: dict[str, yaml.Node] = {}
    for key, value in node.value:
        word = key.value if isinstance(key, yaml.ScalarNode) else None
        if word not in known or word in entries:
            fault = "twice the key" if word in entries else "an unknown key"
            place = _place(path, key.start_mark)
            raise ValueError(f"{place}: {what} with {fault} {word!r}: keys are {', '.join(known)}")
        entries[word] = value
    return entries


def _text(path: Path, key: str, node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise ValueError(f"{_place(path, node.start_mark)}: {key} is a text")
    return str(_value(path, node))


def _value(path: Path, node: yaml.Node) -> Any:
    """What a node says, by the rules of safe YAML."""
    try:
        return yaml.SafeLoader("").construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"{_place(path, node.start_mark)}: {getattr(error, 'problem', None) or error}") from error


def _place(path: Path, mark: Any) -> str:
    return f"{path}, line {mark.line + 1}" if mark is not None else str(path)
