"""One progress bar for everything that goes from chip to chip. Any room may use it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Advance(Protocol):
    """Moves a bar on, and shows a note behind it."""

    def __call__(self, steps: int = 1, note: str = "") -> None:
        """So many steps are done."""


@contextmanager
def progress_bar(show: bool, title: str, total: int, done: int = 0) -> Iterator[Advance]:
    """A bar with its count and the time that is left.

    Args:
        show: Whether to show it at all.
        title: In front of the bar.
        total: Steps.
        done: Of which so many were done before.
    """
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), disable=not show) as bar:
        task = bar.add_task("", total=total, completed=done)

        def advance(steps: int = 1, note: str = "") -> None:
            bar.update(task, advance=steps, description=note)

        yield advance
