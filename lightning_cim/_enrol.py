"""Callbacks for every Trainer of a process, named by a file, without a change to the program that makes the Trainer.

Both Lightnings ask installed packages for callbacks whenever a Trainer is made. Simulated hardware that switches itself
on would be wrong, so this package answers with none unless the environment variable ``LIGHTNING_CIM_CONFIG`` names a
file such as::

    callbacks:
      - class_path: lightning_cim.VariationInjection
        init_args:
          variation: {class_path: lightning_cim.Gaussian, init_args: {sigma: 0.1}}

It is read as LightningCLI reads ``trainer.callbacks``, so whoever writes it decides what runs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_cim._files import yaml_of

CONFIG = "LIGHTNING_CIM_CONFIG"
"""Environment variable that names the file."""

_paused = False


@contextmanager
def not_enrolling() -> Iterator[None]:
    """Trainers made inside get no callbacks from the file: those of the package's own evaluations have theirs."""
    global _paused
    before, _paused = _paused, True
    try:
        yield
    finally:
        _paused = before


def for_lightning() -> list[Any]:
    """Entry point in the group ``lightning.pytorch.callbacks_factory``; see :func:`callbacks_for`."""
    return callbacks_for("lightning.pytorch")


def for_pytorch_lightning() -> list[Any]:
    """Entry point in the group ``pytorch_lightning.callbacks_factory``; see :func:`callbacks_for`."""
    return callbacks_for("pytorch_lightning")


def callbacks_for(flavour: str) -> list[Any]:
    """The callbacks that the file lists, newly built, and a line on stderr that says so; none without a file.

    Args:
        flavour: Package of the Trainer that asks.

    Raises:
        MisconfigurationException: The file is missing or does not describe callbacks; names the variable and the file.
        ImportError: jsonargparse, of the extra ``lightning-cim[cli]``, is missing.
    """
    name = os.environ.get(CONFIG)
    if not name or _paused:
        return []
    from lightning_cim._compat import MisconfigurationException

    try:
        found = _built(_entries(Path(name)), importlib.import_module(flavour).Callback)
    except ValueError as error:
        raise MisconfigurationException(f"{CONFIG}={name}: {error}") from error
    _say(f"lightning_cim: {CONFIG}={name} adds {', '.join(type(callback).__name__ for callback in found)}", flavour)
    return found


def _entries(path: Path) -> list[Any]:
    """What the file lists.

    Raises:
        ValueError: It cannot be read, or lists no callbacks.
    """
    try:
        about = yaml_of(path)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror}; name a file, or unset the variable") from error
    entries = about["callbacks"] if isinstance(about, dict) and list(about) == ["callbacks"] else None
    if not isinstance(entries, list) or not entries:
        raise ValueError("expected one key, callbacks, with a list of class_path and init_args")
    return entries


def _built(entries: list[Any], base: type) -> list[Any]:
    """The callbacks.

    Raises:
        ValueError: A class or an argument that does not fit.
    """
    try:
        from jsonargparse import ArgumentError, ArgumentParser
    except ImportError as error:
        raise ImportError(f"{CONFIG} needs jsonargparse: pip install 'lightning-cim[cli]'") from error
    from lightning_cim._compat import MisconfigurationException

    importlib.import_module("lightning_cim.callbacks")  # so that names of classes alone are found, too
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--callbacks", type=list[base])  # type: ignore[valid-type]
    try:
        config = parser.parse_object({"callbacks": entries})
        build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name until jsonargparse 4.49
        found: list[Any] = build(config)["callbacks"]
    except (ArgumentError, MisconfigurationException, TypeError) as error:
        raise ValueError(str(error)) from error
    return found


def _say(line: str, flavour: str) -> None:
    """Print on stderr, once over all ranks."""
    importlib.import_module(f"{flavour}.utilities").rank_zero_only(print)(line, file=sys.stderr)
