"""What a worst-case search found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim.evaluation.attack import Attempt
from lightning_cim.evaluation.found_chip import FoundChip
from lightning_cim.evaluation.journal import write_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Score:
    """A network without deviation and on the found chip, over one set of data.

    Attributes:
        clean: Accuracy in 0 .. 1 (or mean loss) without deviation.
        found: The same on the found chip.
        count: Predictions that were scored (samples, for a loss).
    """

    clean: float
    found: float
    count: int


@dataclass(frozen=True)
class WorstCaseResult:
    """The worst chip that a search found within a bound. Printing it prints :meth:`table`.

    It is a lower bound on how bad the worst case is: no search is exhaustive.

    Attributes:
        bound: Largest |dW| / max|W| of every tensor that was allowed.
        method: ``"sign"`` or ``"lagrange"``.
        metric: ``"accuracy"``, or ``"loss"`` for a criterion that is no classification.
        found_on: Scores on the data that the chip was found on.
        held_out: Scores on the other data; None if there were none.
        chip: The chip, for ``on_chip``, ``chip_weights`` and export.
        layers: The largest |dW| / max|W| of each mapped parameter.
        history: The points that were tried, in order; the first is the network without deviation.
    """

    bound: float
    method: str
    metric: str
    found_on: Score
    held_out: Score | None
    chip: FoundChip
    layers: dict[str, float]
    history: Sequence[Attempt]

    @property
    def clean(self) -> float:
        """Accuracy (or loss) without deviation, on held-out data where there are some."""
        return (self.held_out or self.found_on).clean

    @property
    def worst(self) -> float:
        """Accuracy (or loss) on the found chip, on held-out data where there are some."""
        return (self.held_out or self.found_on).found

    def table(self) -> str:
        """Scores on both sets of data, and the largest deviation of each layer."""
        rows = [[self.metric, "without deviation", "worst case found", "predictions"]]
        for name, score in (("held-out data", self.held_out), ("data it was found on", self.found_on)):
            if score is not None:
                rows.append([name, f"{score.clean:.4f}", f"{score.found:.4f}", str(score.count)])
        lines = aligned(rows)
        if self.held_out is None:
            lines.append("note: found and scored on the same data; pass evaluate_on for a figure that generalises.")
        layers = [[name, f"{value:.6g}"] for name, value in self.layers.items()]
        lines += ["", *aligned([["layer", "largest |dW| / max|W|"], *layers])]
        lines.append(f"bound {self.bound:g}, {self.method} search, {len(self.history) - 1} points tried")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self, random: ArrayLike | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Accuracy (or loss) on the data that was searched on, against the largest deviation at each point tried.

        Args:
            random: The same score of chips drawn at random in the same box, one value a chip, to be shown beside it:
                for example ``evaluate_chips(..., variation=Uniform(bound)).of("test/acc")``.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        figure, ax = figure_and_axes(ax)
        order = sorted(self.history, key=lambda attempt: attempt.largest)
        ax.plot(
            [100 * attempt.largest for attempt in order],
            [attempt.score for attempt in order],
            "o-",
            color="#c0392b",
            label=f"{self.method} search, on its own data",
        )
        if self.held_out is not None:
            ends = [self.held_out.clean, self.held_out.found]
            ax.plot([0, 100 * self.bound], ends, "s", color="#1f4e79", label="held-out data")
        if random is not None:
            sample = np.asarray(random, dtype=np.float64).reshape(-1)
            label = f"{sample.size} random chips in the same box"
            ax.plot(np.full(sample.size, 100 * self.bound), sample, "_", color="#7f8c8d", markersize=14, label=label)
        ax.set_xlabel("largest deviation, % of max|W|")
        ax.set_ylabel(self.metric)
        ax.set_title("Worst case within a bound")
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a point of the search; the first line is a comment with the scores and the layers."""
        about: dict[str, Any] = {"bound": self.bound, "method": self.method, "metric": self.metric}
        about["found on"] = vars(self.found_on)
        about["held out"] = None if self.held_out is None else vars(self.held_out)
        about["layers"] = dict(self.layers)
        write_rows(Path(path), about, {number: vars(attempt) for number, attempt in enumerate(self.history)})
