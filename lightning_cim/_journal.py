"""Rows on disk, written one by one, so that a killed run goes on at the next one. Any room may use it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from lightning_cim._files import json_in, text_of
from lightning_cim._ranks import ONE, Ranks
from lightning_cim._tables import csv_line


class Ordered(Protocol):
    """What rows are known by."""

    def __lt__(self, other: Any, /) -> bool:
        """Which of two rows comes first in a file."""

    def __hash__(self) -> int:
        """Keys are found again."""


Key = TypeVar("Key", bound=Ordered)
Row = dict[str, float]


@dataclass(frozen=True)
class Layout(Generic[Key]):
    """What each row of a file is about, and how that is written.

    Attributes:
        holds: What a file holds, in words.
        another: What a file of other settings holds.
        prefix: How its first line begins; the rest of that line is a JSON object with what was run.
        columns: Names of the columns before the metrics.
        cells: What stands in these columns.
        key: A row's key from these cells; raises ValueError where they hold none.
        metrics: Names of the metrics where they are known before the first row.
    """

    holds: str
    another: str
    prefix: str
    columns: tuple[str, ...]
    cells: Callable[[Key], tuple[float, ...]]
    key: Callable[[Sequence[str]], Key]
    metrics: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Let the others name a file of this one."""
        _KNOWN.append(self)

    def read(self, path: Path) -> tuple[dict[str, Any], dict[Key, Row]]:
        """Read a file. A last line without its line end was cut off by a kill and is left out.

        Returns:
            What was run, and metrics by key.

        Raises:
            ValueError: Not such a file, or a broken line; names the line.
        """
        text = text_of(path)
        lines = text[: text.rfind("\n") + 1].splitlines()
        about = self._about(lines[0]) if lines else None
        if about is None:
            others = [known.holds for known in _KNOWN if lines and known._about(lines[0]) is not None]
            raise ValueError(
                f"{path}, line 1: not a file of {self.holds} "
                + (f"but of {others[0]}" if others else f"(it should begin with {self.prefix!r} and a JSON object)")
            )
        if len(lines) < 2:
            return about, {}
        first = len(self.columns)
        try:
            header = next(csv.reader([lines[1]]))
        except csv.Error:
            header = []
        if tuple(header[:first]) != self.columns or self.metrics not in ((), tuple(header[first:])):
            raise ValueError(f"{path}, line 2: expected the names {', '.join(self.columns + self.metrics)} of columns")
        rows: dict[Key, Row] = {}
        for number, line in enumerate(lines[2:], start=3):
            try:
                cells = next(csv.reader([line]))
                key = self.key(cells[:first])
                rows[key] = dict(zip(header[first:], map(float, cells[first:]), strict=True))
            except (ValueError, csv.Error) as error:
                raise ValueError(f"{path}, line {number}: expected {len(header)} numbers, got {line!r}") from error
        return about, rows

    def write(self, path: Path, about: Mapping[str, Any], rows: Mapping[Key, Mapping[str, float]]) -> None:
        """Write a whole file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.prefix + json.dumps(about, default=str) + "\n"
        names = next(iter(rows.values()), self.metrics)
        text += self.header(names) if names else ""
        text += "".join(self.line(key, row) for key, row in rows.items())
        part = path.with_name(path.name + ".part")  # a kill while writing must not lose the rows of an existing file
        part.write_text(text, encoding="utf-8")
        part.replace(path)

    def header(self, names: Sequence[str] | Mapping[str, float]) -> str:
        """The line of names above rows with these metrics."""
        return csv_line([*self.columns, *names])

    def line(self, key: Key, row: Mapping[str, float]) -> str:
        """The line of one row."""
        return csv_line([*self.cells(key), *row.values()])

    def _about(self, line: str) -> dict[str, Any] | None:
        """The JSON object of a first line; None if it has none."""
        if not line.startswith(self.prefix):
            return None
        try:
            about = json_in(line[len(self.prefix) :])
        except ValueError:
            return None
        return about if isinstance(about, dict) else None


_KNOWN: list[Layout[Any]] = []


class Journal(Generic[Key]):
    """An open file of rows. Ranks write a file each, and one together at the end.

    Args:
        path: Where; an existing file is continued, and so are those that ranks left beside it, however many there were.
            None: in memory only.
        about: What is run; its ``fingerprint`` must match an existing file's.
        layout: What each row is about.
        ranks: Who writes.

    Attributes:
        rows: Metrics by key, those found on disk and those added.

    Raises:
        ValueError: A file belongs to another run.
    """

    def __init__(self, path: Path | None, about: dict[str, Any], layout: Layout[Key], ranks: Ranks = ONE) -> None:
        self.path, self.layout = path, layout
        self.rows: dict[Key, Row] = {}
        self._about, self._ranks = about, ranks
        self._own, self._has_header = None if path is None else _of_rank(path, ranks), bool(layout.metrics)
        if path is None or self._own is None:
            return
        found = {file: self._rows_of(file) for file in (path, *_of_ranks(path))}
        self.rows = {key: row for rows in found.values() for key, row in rows.items()}
        # Rewritten once, which also drops a line that a kill cut off.
        mine = self.rows if self._own == path else found.get(self._own, {})
        layout.write(self._own, about, mine)
        self._has_header |= bool(mine)

    def add(self, key: Key, row: Row) -> None:
        """Append one row; it is on disk when this returns, also if the process is killed then."""
        if self._own is not None:
            text = ("" if self._has_header else self.layout.header(row)) + self.layout.line(key, row)
            with self._own.open("a", encoding="utf-8") as file:
                file.write(text)
            self._has_header = True
        self.rows[key] = row

    def share(self) -> None:
        """Let every rank have the rows of all. All of them have to call it."""
        for rows in self._ranks.gather(self.rows):
            self.rows.update(rows)

    def finish(self) -> None:
        """Share the rows, and leave one file with all of them, in order. All ranks have to call it."""
        self.share()
        if self.path is None or self._own is None:
            return
        with self._ranks.together():
            if self._ranks.is_first:
                self.layout.write(self.path, self._about, {key: self.rows[key] for key in sorted(self.rows)})
        left = _of_ranks(self.path) if self._ranks.is_first else [self._own]
        for file in left:
            file.unlink(missing_ok=True)

    def _rows_of(self, file: Path) -> dict[Key, Row]:
        if not file.exists() or not file.stat().st_size:
            return {}
        found, rows = self.layout.read(file)
        if found.get("fingerprint") != self._about.get("fingerprint"):
            raise ValueError(
                f"{file} holds {self.layout.another} ({found}); this one is {self._about}. Choose another csv path,"
                " or delete that file."
            )
        return rows


def _of_rank(path: Path, ranks: Ranks) -> Path:
    """Where a rank writes, so that no two processes write one file."""
    return path if ranks.count == 1 else path.with_name(f"{path.name}.rank{ranks.rank}")


def _of_ranks(path: Path) -> list[Path]:
    """What ranks have written beside a file."""
    begin = f"{path.name}.rank"
    files = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(file for file in files if file.name.startswith(begin) and file.name[len(begin) :].isdecimal())
