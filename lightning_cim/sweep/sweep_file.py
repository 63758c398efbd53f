"""A W&B sweep file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from lightning_cim._files import short, yaml_of
from lightning_cim.sweep.parameters import Parameter

SearchMethod = Literal["grid", "random", "bayes"]
Goal = Literal["maximize", "minimize"]

DEFAULT_COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")
"""What W&B runs where a file names no command."""
_KEYS = ("program", "command", "method", "metric", "parameters", "name", "description", "project", "run_cap")


@dataclass(frozen=True)
class SweepFile:
    """What a sweep file says.

    Attributes:
        path: Of the file.
        program: What to run.
        command: Its words, with W&B's macros.
        method: How values are chosen.
        metric: What is looked at, as the program reports it; None: nothing.
        goal: Whether more of it is better.
        parameters: What is varied.
        run_cap: Runs at most; None: no limit.
    """

    path: Path
    program: str
    command: tuple[str, ...]
    method: SearchMethod
    metric: str | None
    goal: Goal
    parameters: tuple[Parameter, ...]
    run_cap: int | None = None

    @property
    def name(self) -> str:
        """Of the file, without its ending."""
        return self.path.stem

    @classmethod
    def read(cls, path: str | PathLike[str]) -> SweepFile:
        """Read a file.

        Args:
            path: YAML, as ``wandb sweep`` takes it.

        Raises:
            ValueError: Not a sweep that can run offline; the message names file and key.
            FileNotFoundError: No such file.
            ImportError: PyYAML is missing; Lightning's command line brings it.
        """
        path = Path(path)
        about = yaml_of(path)
        try:
            return cls._parse(path, about)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def _parse(cls, path: Path, about: Any) -> SweepFile:
        if not isinstance(about, Mapping):
            raise ValueError(f"want method, parameters and a command, got {type(about).__name__}")
        if "early_terminate" in about:
            raise ValueError("early_terminate needs W&B's server; take it out to run offline")
        unknown = [str(key)[:60] for key in about if key not in _KEYS]
        if unknown:
            raise ValueError(f"unknown key {', '.join(unknown)}; known are {', '.join(_KEYS)}")
        method: Any = about.get("method")
        if method not in get_args(SearchMethod):
            raise ValueError(f"method must be one of {', '.join(get_args(SearchMethod))}, got {short(method)}")
        entries = about.get("parameters")
        if not isinstance(entries, Mapping) or not entries:
            raise ValueError(f"parameters must name at least one, got {short(entries)}")
        if not all(isinstance(name, str) for name in entries):
            raise ValueError(f"names of parameters must be texts, got {short(list(entries))}")
        parameters = tuple(Parameter.parse(name, entry) for name, entry in entries.items())
        if method == "grid":
            for parameter in parameters:
                parameter.grid()
        metric, goal = _metric(about.get("metric"))
        if method == "bayes" and metric is None:
            raise ValueError("method bayes needs a metric with its name and goal")
        command = about.get("command", list(DEFAULT_COMMAND))
        is_list = isinstance(command, list) and bool(command)
        if not is_list or not all(isinstance(word, (str, int, float)) for word in command):
            raise ValueError(f"command must be a list of words, got {short(command)}")
        program = about.get("program")
        if not isinstance(program, str):
            raise ValueError(f"program must name a script, got {short(program)}")
        cap = about.get("run_cap")
        if cap is not None and (not isinstance(cap, int) or isinstance(cap, bool) or cap < 1):
            raise ValueError(f"run_cap must be a whole number above 0, got {short(cap)}")
        return cls(path, program, tuple(map(str, command)), method, metric, goal, parameters, cap)


def _metric(about: Any) -> tuple[str | None, Goal]:
    if about is None:
        return None, "maximize"
    if not isinstance(about, Mapping) or not isinstance(about.get("name"), str):
        raise ValueError(f"metric needs a name, got {short(about)}")
    goal = about.get("goal", "minimize")  # W&B's default
    if goal not in get_args(Goal):
        raise ValueError(f"metric.goal must be one of {', '.join(get_args(Goal))}, got {short(goal)}")
    return about["name"], goal
