"""Rows of chips on disk, written one by one, so that a killed evaluation goes on at the next chip."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning_cim._tables import csv_line

PREFIX = "# lightning_cim "


def read_rows(path: Path) -> tuple[dict[str, Any], dict[int, dict[str, float]]]:
    """Read a file of chips. A last line without its line end was cut off by a kill and is left out.

    Returns:
        What was evaluated, and metrics by chip.

    Raises:
        ValueError: Not such a file, or a broken line; names the line.
    """
    text = path.read_text(encoding="utf-8")
    lines = text[: text.rfind("\n") + 1].splitlines()
    about = _about(lines[0]) if lines else None
    if about is None:
        raise ValueError(f"{path}, line 1: not a file of chips (it should begin with {PREFIX!r} and a JSON object)")
    if len(lines) < 2:
        return about, {}
    header = next(csv.reader([lines[1]]))
    rows: dict[int, dict[str, float]] = {}
    for number, line in enumerate(lines[2:], start=3):
        cells = next(csv.reader([line]))
        try:
            chip, *values = cells
            rows[int(chip)] = dict(zip(header[1:], map(float, values), strict=True))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: expected {len(header)} numbers, got {line!r}") from error
    return about, rows


def write_rows(path: Path, about: dict[str, Any], rows: Mapping[int, Mapping[str, float]]) -> None:
    """Write a whole file of chips."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = PREFIX + json.dumps(about) + "\n"
    for position, (chip, row) in enumerate(rows.items()):
        text += (csv_line(["chip", *row]) if position == 0 else "") + csv_line([chip, *row.values()])
    part = path.with_name(path.name + ".part")  # a kill while writing must not lose the chips of an existing file
    part.write_text(text, encoding="utf-8")
    part.replace(path)


class Journal:
    """An open file of chips.

    Args:
        path: Where; an existing file is continued.
        about: What is evaluated; its ``fingerprint`` must match an existing file's.

    Attributes:
        rows: Metrics by chip, those found on disk and those added.

    Raises:
        ValueError: The file belongs to another evaluation.
    """

    def __init__(self, path: Path, about: dict[str, Any]) -> None:
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        if path.exists() and path.stat().st_size:
            found, self.rows = read_rows(path)
            if found.get("fingerprint") != about.get("fingerprint"):
                raise ValueError(
                    f"{path} holds chips of another evaluation ({found}); this one is {about}. Choose another csv path,"
                    " or delete that file."
                )
        # Rewritten once, which also drops a line that a kill cut off.
        write_rows(path, about, self.rows)

    def add(self, chip: int, row: dict[str, float]) -> None:
        """Append one chip; it is on disk when this returns, also if the process is killed then."""
        text = ("" if self.rows else csv_line(["chip", *row])) + csv_line([chip, *row.values()])
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text)
        self.rows[chip] = row


def _about(line: str) -> dict[str, Any] | None:
    """The JSON object of a first line; None if it has none."""
    if not line.startswith(PREFIX):
        return None
    try:
        about = json.loads(line[len(PREFIX) :])
    except json.JSONDecodeError:
        return None
    return about if isinstance(about, dict) else None
