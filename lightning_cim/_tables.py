"""Tables as text and as lines of CSV files. Any room may use them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    r"""Lines of columns of equal width, with a rule below the first row.

    Example:
        >>> print("\n".join(aligned([["a", "bb"], ["100", "2"]])))
        a    bb
        ---  --
        100  2
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [lines[0], "  ".join("-" * width for width in widths), *lines[1:]]


def csv_line(cells: Iterable[Any]) -> str:
    r"""One line of a CSV file; floats are written so that they read back equal.

    Example:
        >>> csv_line(["a, b", 0.1, 2])
        '"a, b",0.1,2\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(
        [repr(cell) if isinstance(cell, float) else cell for cell in cells]
    )
    return buffer.getvalue()
