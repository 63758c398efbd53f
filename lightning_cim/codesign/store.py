"""A search on disk: its trials, one line each, and the state from which it continues."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_cim._files import json_of, text_of
from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.trial import Trial


@dataclass
class Progress:
    """Where a search stands between asking for proposals and finishing them.

    Attributes:
        told: Trials that the optimizer had been told when it was asked.
        proposals: What it proposed then.
        optimizer: Its state after that.
        seconds: Wall time so far, by what it was spent on.
    """

    told: int = 0
    proposals: list[Proposal] = field(default_factory=list)
    optimizer: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class TrialStore:
    """A folder with ``search.json`` (what is searched), ``trials.jsonl`` (append-only) and ``progress.json``.

    A process may be killed at any time. A line that was being written then is dropped, and its trial evaluated again.
    What was written survives the process; nothing is forced through to the disk, so a power cut may cost the last
    trials.

    Args:
        folder: Made if it is not there.
        about: What is searched, JSON-able; a folder of another search is refused.

    Raises:
        ValueError: The folder holds another search, or a file is damaged; with file and line.
    """

    def __init__(self, folder: str | os.PathLike[str], about: Mapping[str, Any]) -> None:
        self._folder = Path(folder)
        self._trials, self._progress = self._folder / "trials.jsonl", self._folder / "progress.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        path, text = self._folder / "search.json", json.dumps(about, indent=1, sort_keys=True)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{self._folder} holds another search (see {path}): choose another folder, or delete it")
        _write(path, text)

    def trials(self) -> list[Trial]:
        """All finished trials; a torn last line is cut off the file.

        Raises:
            ValueError: A line is no trial, or trials are missing or doubled.
        """
        if not self._trials.exists():
            return []
        data = self._trials.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            with self._trials.open("r+b") as file:
                file.truncate(whole)
        return read_trials(self._trials)

    def add(self, trial: Trial) -> None:
        """Append one trial."""
        with self._trials.open("ab") as file:
            file.write(trial.to_json().encode() + b"\n")

    def progress(self) -> Progress | None:
        """As saved last; None before the first time.

        Raises:
            ValueError: The file is damaged.
        """
        if not self._progress.exists():
            return None
        try:
            found = json_of(self._progress)
            return Progress(**{**found, "proposals": [Proposal(**entry) for entry in found["proposals"]]})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{self._progress} is damaged: {error}; delete the folder, or restore the file") from error

    def save(self, progress: Progress) -> None:
        """Replace what :meth:`progress` gives, in one go."""
        proposals = [{"design": entry.design, "meta": entry.meta} for entry in progress.proposals]
        text = {"told": progress.told, "proposals": proposals, "optimizer": progress.optimizer}
        _write(self._progress, json.dumps({**text, "seconds": progress.seconds}))


def read_trials(path: str | os.PathLike[str]) -> list[Trial]:
    """The trials of a ``trials.jsonl``, whose torn last line is left out.

    Raises:
        ValueError: A line is no trial, or trials are missing or doubled; with file and line.
    """
    trials: list[Trial] = []
    for number, line in enumerate(text_of(Path(path)).split("\n")[:-1], start=1):
        try:
            trial = Trial.from_json(line)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: {error}") from error
        if trial.number != len(trials):
            raise ValueError(f"{path}, line {number}: expected trial {len(trials)}, got {trial.number}")
        trials.append(trial)
    return trials


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
