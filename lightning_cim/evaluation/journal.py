"""What the files of chips look like."""

from __future__ import annotations

from collections.abc import Sequence

from lightning_cim._journal import Layout

PREFIX = "# lightning_cim "


def _chip(cells: Sequence[str]) -> int:
    (chip,) = cells
    return int(chip)


def _chip_and_time(cells: Sequence[str]) -> tuple[int, float]:
    chip, seconds = cells
    return int(chip), float(seconds)


_ANOTHER = "chips of another evaluation"

CHIPS: Layout[int] = Layout("chips", _ANOTHER, PREFIX, ("chip",), lambda chip: (chip,), _chip)
"""One row a chip."""
CHIP_TIMES: Layout[tuple[int, float]] = Layout(
    "chips at several times", _ANOTHER, PREFIX + "times ", ("chip", "seconds"), lambda pair: pair, _chip_and_time
)
"""One row a chip and time, in seconds since programming."""

read_rows, write_rows = CHIPS.read, CHIPS.write
