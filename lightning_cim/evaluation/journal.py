"""Rows of chips on disk, written one by one, so that a killed evaluation goes on at the next one."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from lightning_cim._tables import csv_line

PREFIX = "# lightning_cim "

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Layout(Generic[Key]):
    """What each row of a file is about, and how that is written.

    Attributes:
        holds: What a file holds, in words.
        prefix: How its first line begins; the rest of that line is a JSON object with what was evaluated.
        columns: Names of the columns before the metrics.
        cells: What stands in these columns.
        key: A row's key from these cells; raises ValueError where they hold none.
    """

    holds: str
    prefix: str
    columns: tuple[str, ...]
    cells: Callable[[Key], tuple[float, ...]]
    key: Callable[[Sequence[str]], Key]

    def read(self, path: Path) -> tuple[dict[str, Any], dict[Key, dict[str, float]]]:
        """Read a file. A last line without its line end was cut off by a kill and is left out.

        Returns:
            What was evaluated, and metrics by key.

        Raises:
            ValueError: Not such a file, or a broken line; names the line.
        """
        text = path.read_text(encoding="utf-8")
        lines = text[: text.rfind("\n") + 1].splitlines()
        about = self._about(lines[0]) if lines else None
        if about is None:
            others = [known.holds for known in (CHIPS, CHIP_TIMES) if lines and known._about(lines[0]) is not None]
            raise ValueError(
                f"{path}, line 1: not a file of {self.holds} "
                + (f"but of {others[0]}" if others else f"(it should begin with {self.prefix!r} and a JSON object)")
            )
        if len(lines) < 2:
            return about, {}
        header = next(csv.reader([lines[1]]))
        first = len(self.columns)
        rows: dict[Key, dict[str, float]] = {}
        for number, line in enumerate(lines[2:], start=3):
            cells = next(csv.reader([line]))
            try:
                key = self.key(cells[:first])
                rows[key] = dict(zip(header[first:], map(float, cells[first:]), strict=True))
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: expected {len(header)} numbers, got {line!r}") from error
        return about, rows

    def write(self, path: Path, about: dict[str, Any], rows: Mapping[Key, Mapping[str, float]]) -> None:
        """Write a whole file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.prefix + json.dumps(about) + "\n"
        for position, (key, row) in enumerate(rows.items()):
            text += (self.header(row) if position == 0 else "") + self.line(key, row)
        part = path.with_name(path.name + ".part")  # a kill while writing must not lose the rows of an existing file
        part.write_text(text, encoding="utf-8")
        part.replace(path)

    def header(self, row: Mapping[str, float]) -> str:
        """The line of names above rows with these metrics."""
        return csv_line([*self.columns, *row])

    def line(self, key: Key, row: Mapping[str, float]) -> str:
        """The line of one row."""
        return csv_line([*self.cells(key), *row.values()])

    def _about(self, line: str) -> dict[str, Any] | None:
        """The JSON object of a first line; None if it has none."""
        if not line.startswith(self.prefix):
            return None
        try:
            about = json.loads(line[len(self.prefix) :])
        except json.JSONDecodeError:
            return None
        return about if isinstance(about, dict) else None


def _chip(cells: Sequence[str]) -> int:
    (chip,) = cells
    return int(chip)


def _chip_and_time(cells: Sequence[str]) -> tuple[int, float]:
    chip, seconds = cells
    return int(chip), float(seconds)


CHIPS: Layout[int] = Layout("chips", PREFIX, ("chip",), lambda chip: (chip,), _chip)
"""One row a chip."""
CHIP_TIMES: Layout[tuple[int, float]] = Layout(
    "chips at several times", PREFIX + "times ", ("chip", "seconds"), lambda pair: pair, _chip_and_time
)
"""One row a chip and time, in seconds since programming."""

read_rows, write_rows = CHIPS.read, CHIPS.write


class Journal(Generic[Key]):
    """An open file of chips.

    Args:
        path: Where; an existing file is continued.
        about: What is evaluated; its ``fingerprint`` must match an existing file's.
        layout: What each row is about.

    Attributes:
        rows: Metrics by key, those found on disk and those added.

    Raises:
        ValueError: The file belongs to another evaluation.
    """

    def __init__(self, path: Path, about: dict[str, Any], layout: Layout[Key]) -> None:
        self.path, self.layout = path, layout
        self.rows: dict[Key, dict[str, float]] = {}
        if path.exists() and path.stat().st_size:
            found, self.rows = layout.read(path)
            if found.get("fingerprint") != about.get("fingerprint"):
                raise ValueError(
                    f"{path} holds chips of another evaluation ({found}); this one is {about}. Choose another csv path,"
                    " or delete that file."
                )
        # Rewritten once, which also drops a line that a kill cut off.
        layout.write(path, about, self.rows)

    def add(self, key: Key, row: dict[str, float]) -> None:
        """Append one row; it is on disk when this returns, also if the process is killed then."""
        text = ("" if self.rows else self.layout.header(row)) + self.layout.line(key, row)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.rows[key] = row
