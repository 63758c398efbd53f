"""Files of strangers: whatever one holds, it is read or refused by a ValueError. Any room may use this."""

from __future__ import annotations

import json
import pickle
import reprlib
import sys
from pathlib import Path
from typing import Any


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: It is not UTF-8; names the file and the byte.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text: byte {error.object[error.start]:#04x} at {error.start}") from None


def json_in(text: str) -> Any:
    """What a JSON text says.

    Raises:
        ValueError: It is not JSON, or nested too deeply to be anything that was written here.

    Example:
        >>> json_in("[" * 100_000)
        Traceback (most recent call last):
        ValueError: not JSON: nested too deeply
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error


def json_of(path: Path) -> Any:
    """What a JSON file says.

    Raises:
        ValueError: It says nothing; names the file.
    """
    text = text_of(path)
    try:
        return json_in(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def yaml_of(path: Path) -> Any:
    """What a YAML file says in plain values; no tag of it makes an object.

    Raises:
        ValueError: It says nothing; names the file.
        ImportError: PyYAML is missing; Lightning brings it.
    """
    import yaml

    text = text_of(path)
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"{path}: not YAML: nested too deeply") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: dates and numbers that are none
        raise ValueError(f"{path}: not YAML: {error}") from error


def tensors_of(path: Path, weights_only: bool = True, unless: str = "") -> dict[str, Any]:
    """The dictionary that ``torch.save`` wrote, on the CPU.

    Args:
        path: The file.
        weights_only: Tensors and plain values only; anything else could run code.
        unless: What the message adds for a file that holds more.

    Raises:
        ValueError: It is no such file, or holds more; names it.
    """
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=weights_only)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: not a file of tensors and plain values.{unless}") from error
    except Exception as error:  # torch, zipfile and pickle each have several errors for a damaged file
        raise ValueError(f"{path}: not a file of torch.save: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a dictionary, got {type(found).__name__}")
    return found


def is_finite(value: Any) -> bool:
    """Whether a value is a number that a float can hold; True and False are none.

    Example:
        >>> is_finite(3), is_finite(10**400), is_finite(float("nan")), is_finite(True)
        (True, False, False, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def short(value: object) -> str:
    """A value as code, cut: YAML's aliases make some kilobytes a value whose whole repr fills the memory.

    Example:
        >>> short([[0] * 9] * 9)
        '[[0, 0, 0, 0, ...], [0, 0, 0, 0, ...], [0, 0, 0, 0, ...], [0, 0, 0, 0, ...], ...]'
    """
    return _SHORT.repr(value)


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist, _SHORT.maxdict = 2, 4, 4
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 60
