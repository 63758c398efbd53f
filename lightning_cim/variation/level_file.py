"""Reading measured levels from CSV files; whatever is wrong with a file is a ValueError that names file and line."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from lightning_cim.variation.conductance import Curve, Device, Level, Polynomial, Table

Fit = Literal["table", "polynomial"]

UNITS = ("S", "mS", "uS", "nS", "pS", "A", "mA", "uA", "nA", "pA", "normalised")
LARGEST = 1e12
"""Values beyond this are typing errors in any unit."""


def device_from_csv(
    path: str | PathLike[str],
    *,
    fit: Fit = "table",
    degree: int | None = None,
    mean_shift: bool = True,
    name: str | None = None,
) -> Device:
    """A device whose curves are fitted to measured levels; see :meth:`Measured.from_csv`.

    Raises:
        ValueError: With file and line where the file is at fault.
    """
    if fit not in ("table", "polynomial"):
        raise ValueError(f"fit must be 'table' or 'polynomial', got {fit!r}")
    if (degree is None) == (fit == "polynomial") or (degree is not None and degree < 0):
        raise ValueError(
            f"fit='polynomial' needs degree=, a number >= 0; fit='table' takes none. Got fit={fit!r}, degree={degree!r}"
        )
    unit, levels, line = read_levels(str(path), Path(path).read_bytes())
    stds, errors = [level.std for level in levels], [level.mean - level.target for level in levels]
    try:
        if degree is not None and degree >= len(levels):
            raise ValueError(f"a polynomial of degree {degree} needs {degree + 1} levels, got {len(levels)}")
        sigma, shift = _fitted(levels, stds, degree), _fitted(levels, errors, degree)
        low, high = levels[0].target, levels[-1].target
        label = Path(path).name  # without its folder, so that results do not depend on where the file lies
        return Device(
            label if name is None else name,
            unit,
            low,
            high,
            sigma,
            shift if mean_shift else None,
            source=label,
            measured=tuple(levels),
        )
    except ValueError as error:
        raise ValueError(f"{path}:{line}: {error}") from None


def read_levels(label: str, content: bytes) -> tuple[str, list[Level], int]:
    r"""The measured levels of a CSV file.

    Args:
        label: What messages call the file.
        content: Its bytes.

    Returns:
        Unit, levels in increasing order, and the number of the header's line.

    Raises:
        ValueError: With file and line, what is wrong there.

    Example:
        >>> unit, levels, _ = read_levels("cells.csv", b"target_uS,reading_uS\n10,10.5\n10,9.5\n20,21\n20,21\n")
        >>> unit, levels[1]
        ('uS', Level(target=20.0, mean=21.0, std=0.0, readings=2))
    """
    rows = _rows(label, content)
    if not rows:
        raise ValueError(f"{label}:1: no header; the first line must name columns, such as target_uS,reading_uS")
    header_line, header = rows[0]
    columns = [re.fullmatch(r"(target|reading|level|mean|std)_(\w+)", cell.replace("µ", "u")) for cell in header]
    what = {column.group(1): place for place, column in enumerate(columns) if column}
    units = {column.group(2) for column in columns if column}
    if (
        not all(columns)
        or set(what) not in ({"target", "reading"}, {"level", "mean", "std"})
        or len(what) != len(header)
    ):
        raise ValueError(
            f"{label}:{header_line}: columns must be target_uS,reading_uS or level_uS,mean_uS,std_uS with any unit of"
            f" conductance or current, got {shortened(','.join(header))}"
        )
    if len(units) != 1 or not units <= set(UNITS):
        raise ValueError(
            f"{label}:{header_line}: all columns must have one unit of {', '.join(UNITS)},"
            f" got {shortened(sorted(units))}"
        )
    found: dict[float, tuple[int, list[tuple[float, ...]]]] = {}
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise ValueError(f"{label}:{line}: {len(header)} values expected, got {len(cells)}")
        numbers = [_value(label, line, cell) for cell in cells]
        target = numbers[what.get("target", what.get("level", 0))]
        found.setdefault(target, (line, []))[1].append(tuple(numbers))
        if "std" in what and numbers[what["std"]] < 0:
            raise ValueError(f"{label}:{line}: std must be at least 0, got {cells[what['std']]}")
        if "std" in what and len(found[target][1]) > 1:
            raise ValueError(f"{label}:{line}: the level {target:g} stands on line {found[target][0]} already")
    levels = []
    for target, (line, group) in sorted(found.items()):
        if "std" in what:
            levels.append(Level(target, group[0][what["mean"]], group[0][what["std"]]))
            continue
        if len(group) < 2:
            raise ValueError(f"{label}:{line}: the target {target:g} has one reading; a std needs two or more")
        readings = [numbers[what["reading"]] for numbers in group]
        levels.append(Level(target, statistics.fmean(readings), statistics.stdev(readings), len(readings)))
    if len(levels) < 2:
        raise ValueError(f"{label}:{rows[-1][0]}: two or more levels are needed, got {len(levels)}")
    return next(iter(units)), levels, header_line


def _fitted(levels: Sequence[Level], values: Sequence[float], degree: int | None) -> Curve:
    """Straight lines between levels, or the least-squares polynomial in g / (largest level)."""
    targets = [level.target for level in levels]
    table = Table(tuple(targets), tuple(values))  # checks that the levels are apart
    if degree is None:
        return table
    reference = max(map(abs, targets))
    relative = torch.tensor(targets, dtype=torch.float64) / reference
    powers = relative[:, None] ** torch.arange(degree + 1, dtype=torch.float64)
    right = torch.tensor(values, dtype=torch.float64)[:, None]
    solution = torch.linalg.lstsq(powers, right, driver="gelsd").solution
    return Polynomial(tuple(solution[:, 0].tolist()), reference)


def _rows(label: str, content: bytes) -> list[tuple[int, list[str]]]:
    """Lines with something on them, with their numbers."""
    reader = csv.reader(io.StringIO(decoded(label, content), newline=""), skipinitialspace=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells) and not cells[0].startswith("#"):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise ValueError(f"{label}:{max(1, reader.line_num)}: not a CSV file: {error}") from None
    return rows


def _value(label: str, line: int, cell: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:
        raise ValueError(f"{label}:{line}: {shortened(cell)} is not a number of at most {LARGEST:g}")
    return value


def decoded(label: str, content: bytes) -> str:
    """The text of a file, with its line where it is not UTF-8."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{label}:{line}: not UTF-8 text: byte {content[error.start]:#04x}") from None


def shortened(value: Any) -> str:
    """A value as code, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
