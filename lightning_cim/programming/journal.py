"""Scores on disk as soon as they are measured, so that a killed run goes on where it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils._pytree import tree_leaves

from lightning_cim._digest import digest
from lightning_cim._journal import Journal, Layout
from lightning_cim._ranks import ONE, Ranks
from lightning_cim.programming.curve import HEADER, PREFIX, Point


def _chip_and_point(cells: Sequence[str]) -> tuple[int, int]:
    chip, point = cells
    return int(chip), int(point)


SCORES: Layout[tuple[int, int]] = Layout(
    "programmed chips",
    "another programming run",
    PREFIX,
    HEADER[:2],
    lambda pair: pair,
    _chip_and_point,
    metrics=Point._fields,
)
"""One row a chip and point, as :meth:`ProgrammingCurve.to_csv` writes them."""


class ScoreJournal(Journal[tuple[int, int]]):
    """Points of chips, written one by one; see :class:`Journal`."""

    def __init__(self, path: Path | None, about: dict[str, Any], ranks: Ranks = ONE) -> None:
        super().__init__(path, about, SCORES, ranks)

    def point(self, chip: int, point: int) -> Point | None:
        """A point that was measured before."""
        row = self.rows.get((chip, point))
        return None if row is None else Point(**row)


def fingerprint(model: nn.Module, *settings: Any) -> str:
    """A digest of a model's state and of settings (tensors, or anything with a faithful ``repr``)."""
    return digest("", tree_leaves([dict(model.state_dict()), *settings]))
