"""The words of one run, from a sweep file's command and its macros, as W&B's agents make them."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Values = Mapping[str, Any]

_MACRO = re.compile(r"\$\{([^}]*)\}")


def command_of(command: Sequence[str], program: str, values: Values, folder: Path) -> list[str]:
    """Expand a command.

    Args:
        command: Words of the sweep file.
        program: What ``${program}`` stands for.
        values: Of the parameters.
        folder: Of the run; ``${args_json_file}`` is written there.

    Returns:
        Words for a subprocess. ``${env}`` is nothing, because the environment is inherited anyway; ``python`` in front
        is this interpreter.

    Raises:
        ValueError: An unknown macro.

    Example:
        >>> command_of(["echo", "${program}", "fit", "${args}"], "x.py", {"cim.sigma": 0.1}, Path("."))
        ['echo', 'x.py', 'fit', '--cim.sigma=0.1']
    """
    words: list[str] = []
    for word in command:
        if word == "${env}":
            continue
        if word == "${args}":
            words += [f"--{name}={text(value)}" for name, value in values.items()]
        elif word == "${args_no_hyphens}":
            words += [f"{name}={text(value)}" for name, value in values.items()]
        elif word == "${args_no_equals}":
            words += [part for name, value in values.items() for part in (f"--{name}", text(value))]
        elif word == "${args_no_boolean_flags}":
            words += _flags(values)
        elif word == "${args_json}":
            words.append(json.dumps(dict(values)))
        elif word == "${args_json_file}":
            path = folder / "args.json"
            path.write_text(json.dumps(dict(values), indent=1), encoding="utf-8")
            words.append(str(path))
        else:
            words.append(_MACRO.sub(lambda found: _value(found[1], program), word))
    if words and words[0] in ("python", "python3"):
        words[0] = sys.executable
    return words


def text(value: Any) -> str:
    """A value as a command line has it.

    None becomes null: LightningCLI reads the word "None" as a text.

    Example:
        >>> text(None), text(True), text([0.1, 0.2]), text("pcm")
        ('null', 'true', '[0.1, 0.2]', 'pcm')
    """
    return value if isinstance(value, str) else json.dumps(value)


def _flags(values: Values) -> list[str]:
    """As W&B: a flag for True, nothing for False."""
    words = []
    for name, value in values.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not False:
            words.append(f"--{name}={text(value)}")
    return words


def _value(macro: str, program: str) -> str:
    if macro == "program":
        return program
    if macro == "interpreter":
        return sys.executable
    if macro.startswith("envvar:"):
        return os.environ.get(macro.removeprefix("envvar:"), "")
    known = "env, interpreter, program, args, args_no_boolean_flags, args_no_equals, args_no_hyphens, args_json"
    raise ValueError(f"command: unknown macro ${{{macro}}}; known are {known}, args_json_file, envvar:NAME")
