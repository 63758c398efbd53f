"""Scores on disk as soon as they are measured, so that a killed run goes on where it was."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from lightning_cim._digest import digest
from lightning_cim._tables import csv_line
from lightning_cim.programming.curve import HEADER, PREFIX, Point


class ScoreJournal:
    """Scores by chip and point, written one by one; the file has the layout of :meth:`ProgrammingCurve.to_csv`.

    Args:
        path: Where; an existing file of the same run is continued. None: in memory only.
        about: What is measured. Its ``fingerprint`` tells runs apart.

    Raises:
        ValueError: The file is of another run, or none of these files.
    """

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self._path = path
        self._scores: dict[tuple[int, int], float] = {}
        if path is None:
            return
        if path.exists() and path.stat().st_size:
            self._read(path, about)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(PREFIX + json.dumps(about, default=str) + "\n" + csv_line(HEADER), encoding="utf-8")

    def get(self, chip: int, point: int) -> float | None:
        """A score that was measured before."""
        return self._scores.get((chip, point))

    def add(self, chip: int, point: int, row: Point) -> None:
        """Append a point; it is on disk when this returns."""
        self._scores[chip, point] = row[-1]
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(csv_line((chip, point, *row)))

    def _read(self, path: Path, about: dict[str, Any]) -> None:
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a last line without its end was cut off by a kill
        lines = whole.splitlines()
        try:
            found = json.loads(lines[0].removeprefix(PREFIX)) if lines and lines[0].startswith(PREFIX) else None
        except json.JSONDecodeError:
            found = None
        if not isinstance(found, dict):
            raise ValueError(f"{path}, line 1: not a file of programmed chips; choose another csv path")
        if found.get("fingerprint") != about["fingerprint"]:
            raise ValueError(
                f"{path} holds another programming run ({found}); this one is {about}. Choose another csv path, or"
                " delete that file."
            )
        for number, line in enumerate(lines[2:], start=3):
            try:
                chip, point, *values = next(csv.reader([line]))
                self._scores[int(chip), int(point)] = [float(value) for value in values][3]
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, line {number}: expected {len(HEADER)} numbers, got {line!r}") from error
        if whole != text:
            path.write_text(whole, encoding="utf-8")


def fingerprint(model: nn.Module, *settings: Any) -> str:
    """A digest of a model's state and of settings (tensors, or anything with a faithful ``repr``)."""
    return digest("", tree_leaves([dict(model.state_dict()), *settings]))
