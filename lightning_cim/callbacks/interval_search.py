"""What the search for a training sigma found, selection by selection."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim.chip.interval import SETS, SetName

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Selection:
    """One selection among the weight sets.

    Attributes:
        epoch: The epoch whose end (or middle) it was.
        low: Lower end of the interval that the sets trained in.
        high: Upper end.
        sigmas: Training sigmas of the left, middle and right set, in units of max|W|.
        scores: Their scores; None for a set that was not scored (warm-up, or after the search has ended).
        winner: Which set was copied into all; None in warm-up, where nothing is selected.
    """

    epoch: int
    low: float
    high: float
    sigmas: tuple[float, float, float]
    scores: tuple[float | None, float | None, float | None]
    winner: SetName | None

    @property
    def score(self) -> float:
        """Score of the weights that training went on with."""
        score = self.scores[SETS.index(self.winner or "mid")]
        return math.nan if score is None else score

    @property
    def sigma(self) -> float:
        """Training sigma of these weights."""
        return self.sigmas[SETS.index(self.winner or "mid")]


@dataclass
class IntervalSearch:
    """A sequence of selections. Printing it prints :meth:`table`.

    Attributes:
        rows: The selections, in order.
        metric: What the scores are percentiles of; empty before the first selection.
        k: The percentile, in per cent.
        lower_is_better: Whether a lower score is better.

    Example:
        >>> search = IntervalSearch([Selection(0, 0.0, 0.4, (0.1, 0.2, 0.3), (0.7, 0.9, 0.8), "mid")], "val/acc")
        >>> print(search)
        epoch  interval          left           mid            right          winner
        -----  ----------------  -------------  -------------  -------------  ------
        0      0.0000 .. 0.4000  0.100: 0.7000  0.200: 0.9000  0.300: 0.8000  mid
        sigma: KPP 1 % of val/acc; best 0.9000 at sigma 0.2 in epoch 0
    """

    rows: list[Selection] = field(default_factory=list)
    metric: str = ""
    k: float = 1.0
    lower_is_better: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Selection]:
        return iter(self.rows)

    def __getitem__(self, index: int) -> Selection:
        return self.rows[index]

    @property
    def best(self) -> Selection | None:
        """The first selection with the best score, whose weights are restored at the end of the fit."""
        found: Selection | None = None
        for row in self.rows:
            if self.improves(row.score, None if found is None else found.score):
                found = row
        return found

    def improves(self, score: float, best: float | None) -> bool:
        """Whether a score is better than the best one so far; NaN never is."""
        if math.isnan(score):
            return False
        return best is None or (score < best if self.lower_is_better else score > best)

    def table(self) -> str:
        """One line a selection, each set as ``sigma: score``."""
        header = ["epoch", "interval", *SETS, "winner"]
        cells = [
            [
                str(row.epoch),
                f"{row.low:.4f} .. {row.high:.4f}",
                *(
                    f"{sigma:.3f}: {'-' if score is None else f'{score:.4f}'}"
                    for sigma, score in zip(row.sigmas, row.scores, strict=True)
                ),
                row.winner or "-",
            ]
            for row in self.rows
        ]
        lines = aligned([header, *cells])
        best = self.best
        if best is not None:
            about = f"sigma: KPP {self.k:g} % of {self.metric}"
            lines.append(f"{about}; best {best.score:.4f} at sigma {best.sigma:.4g} in epoch {best.epoch}")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """The interval and the winners' sigmas over selections, and their scores on a second axis.

        Args:
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ValueError: Nothing was selected yet.
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        if not self.rows:
            raise ValueError("there is no selection to plot yet; fit first")
        figure, ax = figure_and_axes(ax)
        places = list(range(len(self.rows)))
        ax.fill_between(
            places, [row.low for row in self.rows], [row.high for row in self.rows], color="#9db4c8", label="interval"
        )
        ax.plot(places, [row.sigma for row in self.rows], "o-", color="#1f4e79", label="sigma of the winner")
        ax.set_xticks(places, [str(row.epoch) for row in self.rows])
        ax.set_xlabel("epoch")
        ax.set_ylabel("training sigma")
        scores = ax.twinx()
        scores.plot(places, [row.score for row in self.rows], "s--", color="#c0392b", label="score")
        scores.set_ylabel(f"KPP {self.k:g} % of {self.metric}")
        handles = [*ax.get_legend_handles_labels()[0], *scores.get_legend_handles_labels()[0]]
        ax.legend(handles, [str(handle.get_label()) for handle in handles], fontsize="small")
        return figure, ax

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and strings, for a checkpoint."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "metric": self.metric,
            "lower_is_better": self.lower_is_better,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        self.rows = [Selection(**row) for row in state_dict["rows"]]
        self.metric, self.lower_is_better = state_dict["metric"], state_dict["lower_is_better"]
