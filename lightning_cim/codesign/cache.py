"""Outcomes of evaluations, kept for the next search that proposes the same design."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_cim._files import json_of
from lightning_cim.codesign.evaluator import Outcome

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design, Space


class EvaluationCache:
    """Outcomes by design, seed and the evaluator's version; failed ones are not kept.

    On disk each outcome is a file of its own, written in one go, so that processes and machines may share the folder.

    Args:
        space: Of the designs.
        version: Of the evaluator.
        folder: Where to keep them; None: in memory, for as long as this object lives.

    Attributes:
        hits: How many evaluations were spared.

    Example:
        >>> from lightning_cim.codesign.space import Slot, Space
        >>> cache = EvaluationCache(Space((Slot("kernel", (3, 5)),)), "v1")
        >>> cache.put({"kernel": 3}, 0, Outcome({"acc_mean": 0.9}))
        >>> cache.get({"kernel": 3}, 0).metrics, cache.get({"kernel": 3}, 1)
        ({'acc_mean': 0.9}, None)
    """

    def __init__(self, space: Space, version: str, folder: str | os.PathLike[str] | None = None) -> None:
        self._space, self._version = space, version
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Outcome] = {}
        self.hits = 0

    def get(self, design: Design, seed: int) -> Outcome | None:
        """The outcome, if it is known. A damaged file counts as unknown."""
        key = self._key(design, seed)
        found = self._known.get(key)
        if found is None and self._folder is not None:
            found = _read(self._folder / f"{key}.json")
            if found is not None:
                self._known[key] = found
        self.hits += found is not None
        return found

    def put(self, design: Design, seed: int, outcome: Outcome) -> None:
        """Keep an outcome, unless it failed."""
        if outcome.status != "ok":
            return
        key = self._key(design, seed)
        self._known[key] = outcome
        if self._folder is not None:
            path = self._folder / f"{key}.json"
            part = path.with_name(f"{key}.{os.getpid()}.part")
            entry = {"design": design, "seed": seed, "version": self._version, **asdict(outcome)}
            part.write_text(json.dumps(entry), encoding="utf-8")
            part.replace(path)

    def _key(self, design: Design, seed: int) -> str:
        text = json.dumps([self._space.key(design), seed, self._version])
        return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path) -> Outcome | None:
    try:
        entry = json_of(path)
        return Outcome({str(name): float(value) for name, value in entry["metrics"].items()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
