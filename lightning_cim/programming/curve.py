"""What programming makes of the score, cycle by cycle."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned, csv_line
from lightning_cim.programming.score import interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFIX = "# lightning_cim programming "
HEADER = ("chip", "point", "fraction", "nwc_verify_only", "nwc_total", "score")
Axis = Literal["nwc_verify_only", "nwc_total", "fraction"]
_AXES = {
    "nwc_verify_only": "normalised write cycles (verifying only)",
    "nwc_total": "normalised write cycles (all)",
    "fraction": "share of weights verified",
}


class Point(NamedTuple):
    """One chip after one step of programming; see :class:`ProgrammingCurve` for the fields."""

    fraction: float
    nwc_verify_only: float
    nwc_total: float
    score: float


@dataclass(frozen=True, eq=False)
class ProgrammingCurve:
    """Score against write cycles, for several chips. Printing it prints :meth:`table`.

    Every array has one row a point (a further step of programming) and one column a chip. Where chips stop by
    themselves, a chip that has stopped keeps its last values in the later rows: a row's mean is that of all chips after
    as many steps.

    Attributes:
        method: What was done; labels plots.
        score_name: ``"accuracy"`` (a fraction) or ``"loss"``.
        ideal: The score without any deviation.
        fraction: Share of the weights that were verified.
        nwc_verify_only: Cycles spent verifying, relative to verifying every weight.
        nwc_total: All write cycles, relative to writing and verifying every weight.
        scores: The score.
        about: How it was measured; printed below the table.
    """

    method: str
    score_name: str
    ideal: float
    fraction: np.ndarray
    nwc_verify_only: np.ndarray
    nwc_total: np.ndarray
    scores: np.ndarray
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> np.ndarray:
        """Mean score over chips at each point."""
        return np.asarray(self.scores.mean(axis=1))

    @property
    def ci95(self) -> np.ndarray:
        """Half width of the mean's 95 % interval at each point; NaN for one chip."""
        return interval(self.scores)

    @property
    def chips(self) -> int:
        """How many chips."""
        return int(self.scores.shape[1])

    def at(self, x: float, axis: Axis = "fraction") -> float:
        """Mean score where the mean of an axis is ``x``, linearly between two points.

        Raises:
            ValueError: No point reaches that far.
        """
        where = self._along(axis)
        if not where[0] <= x <= where[-1]:
            raise ValueError(f"the curve has {axis} from {where[0]:g} to {where[-1]:g}, not {x:g}")
        return float(np.interp(x, where, self.mean))

    def table(self) -> str:
        """One line a point: verified share, NWC, mean score with its 95 % interval, and the drop from the ideal."""
        sign = 1.0 if self.score_name == "accuracy" else -1.0
        rows = [["verified", "NWC verify", "NWC total", f"{self.score_name} mean ± 95 %", "drop"]]
        for point, (mean, half) in enumerate(zip(self.mean, self.ci95, strict=True)):
            rows.append(
                [
                    f"{100 * self.fraction[point].mean():.1f} %",
                    f"{self.nwc_verify_only[point].mean():.3f}",
                    f"{self.nwc_total[point].mean():.3f}",
                    f"{mean:.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}"),
                    f"{sign * (self.ideal - mean):.4f}",
                ]
            )
        about = "".join(f", {name}: {value}" for name, value in self.about.items())
        footer = f"{self.method}; ideal {self.score_name} {self.ideal:.4f}; {self.chips} chips{about}"
        return "\n".join([*aligned(rows), footer])

    def __str__(self) -> str:
        return self.table()

    def plot(
        self, ax: Axes | None = None, *, axis: Axis = "nwc_verify_only", label: str | None = None
    ) -> tuple[Figure, Axes]:
        """Mean score with its 95 % band against write cycles; give the same axes to several curves to compare them.

        Args:
            ax: Draw here instead of on a new figure.
            axis: What lies along x.
            label: In the legend; default: the method.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        x, half = self._along(axis), np.nan_to_num(self.ci95)
        figure, ax = figure_and_axes(ax)
        (line,) = ax.plot(x, self.mean, marker=".", label=self.method if label is None else label)
        ax.fill_between(x, self.mean - half, self.mean + half, color=line.get_color(), alpha=0.2, linewidth=0)
        if not any(other.get_label() == "ideal" for other in ax.get_lines()):
            ax.axhline(self.ideal, color="black", linestyle=":", linewidth=1, label="ideal")
        ax.set_xlabel(_AXES[axis])
        ax.set_ylabel(self.score_name)
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a chip and point; the first line is a comment with how it was measured."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"method": self.method, "score": self.score_name, "ideal": self.ideal, **self.about}
        text = PREFIX + json.dumps(about, default=str) + "\n" + csv_line(HEADER)
        columns = (self.fraction, self.nwc_verify_only, self.nwc_total, self.scores)
        for chip in range(self.chips):
            for point in range(len(self.scores)):
                text += csv_line((chip, point, *(float(column[point, chip]) for column in columns)))
        path.write_text(text, encoding="utf-8")

    def _along(self, axis: str) -> np.ndarray:
        if axis not in _AXES:
            raise ValueError(f"axis must be one of {', '.join(map(repr, _AXES))}, got {axis!r}")
        return np.asarray(getattr(self, axis).mean(axis=1))


def curve_of(
    rows: list[list[Point]], method: str, score_name: str, ideal: float, about: Mapping[str, Any]
) -> ProgrammingCurve:
    """A curve from the points of each chip; a chip that stopped early keeps its last point."""
    points = max(map(len, rows))
    padded = np.array([row + [row[-1]] * (points - len(row)) for row in rows], dtype=np.float64)
    fraction, verify_only, total, scores = padded.transpose(2, 1, 0)
    return ProgrammingCurve(method, score_name, ideal, fraction, verify_only, total, scores, about)
