"""What an evaluation over chips found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim.evaluation.journal import read_rows, write_rows
from lightning_cim.evaluation.percentile import Percentile, chips_needed, percentile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWER_IS_BETTER = ("loss", "error", "err", "mse", "mae", "rmse", "nll", "perplexity", "missed", "ece", "latency")

_STAGES = ("val/", "val_", "valid/", "valid_", "validation/", "validation_", "test/", "test_")


@dataclass(frozen=True)
class ChipResult:
    """Metrics of every chip, with their statistics. Printing it prints :meth:`table`.

    Metrics whose name contains a word such as ``loss`` or ``error`` count as lower-is-better: their worse end is the
    high one. Every method takes a metric's name, and does without where there is only one that is not a loss.

    Attributes:
        values: By metric, one value a chip.
        chips: The chips' numbers, in the order of the values.
        about: What was evaluated: variation, seed, stage and so on; printed below the table.
        lower_is_better: Names of the metrics for which lower is better; None: judged by their names.

    Example:
        >>> result = ChipResult({"acc": np.array([0.8, 0.9, 1.0])}, [0, 1, 2])
        >>> round(result.mean("acc"), 3), result.worst("acc")
        (0.9, 0.8)
    """

    values: Mapping[str, np.ndarray]
    chips: list[int]
    about: Mapping[str, Any] = field(default_factory=dict)
    lower_is_better: tuple[str, ...] | None = None

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return list(self.values)

    def mean(self, metric: str | None = None) -> float:
        """Mean over chips."""
        return float(np.mean(self.of(metric)))

    def std(self, metric: str | None = None) -> float:
        """Sample standard deviation over chips (ddof 1); NaN for a single chip."""
        sample = self.of(metric)
        return float(np.std(sample, ddof=1)) if sample.size > 1 else math.nan

    def ci95(self, metric: str | None = None) -> float:
        """Half width of the mean's 95 % interval: 1.96 std / sqrt(chips)."""
        return 1.96 * self.std(metric) / math.sqrt(len(self.chips))

    def kpp(self, metric: str | None = None, k: float = 1.0, confidence: float = 0.95) -> Percentile:
        """The k-th percentile from the worse end, with its order-statistic interval; NaN if a chip's value is NaN."""
        name = self._name(metric)
        if np.isnan(self.values[name]).any():
            return Percentile(math.nan, math.nan, math.nan, k, len(self.chips), confidence)
        return percentile(self.values[name], k, self.is_lower_better(name), confidence)

    def worst(self, metric: str | None = None) -> float:
        """The value of the worst chip."""
        name = self._name(metric)
        sample = self.values[name]
        return float(sample.max() if self.is_lower_better(name) else sample.min())

    def worst_chip(self, metric: str | None = None) -> int:
        """The number of the worst chip, so that it can be looked at again: ``population[number]``."""
        name = self._name(metric)
        sample = self.values[name]
        return self.chips[int(sample.argmax() if self.is_lower_better(name) else sample.argmin())]

    def of(self, metric: str | None = None) -> np.ndarray:
        """The values of a metric, one a chip."""
        return self.values[self._name(metric)]

    def is_lower_better(self, metric: str) -> bool:
        """Whether the worse end of a metric is the high one."""
        if self.lower_is_better is not None:
            return metric in self.lower_is_better
        words = metric.lower().replace("/", "_").replace("-", "_").split("_")
        return any(word in LOWER_IS_BETTER for word in words)

    def summary(self, k: float = 1.0) -> dict[str, float]:
        """Numbers under the names that loggers and sweeps use, such as ``cim/acc_mean`` for a metric ``test/acc``.

        Args:
            k: The percentile, in per cent.

        Example:
            >>> ChipResult({"test/acc": np.array([0.8, 0.9, 1.0])}, [0, 1, 2]).summary(k=50)["cim/acc_worst"]
            0.8
        """
        found: dict[str, float] = {}
        for metric in self.metrics:
            mark, name = self.kpp(metric, k), f"cim/{plain_name(metric)}"
            found |= {f"{name}_mean": self.mean(metric), f"{name}_kpp": mark.value, f"{name}_worst": self.worst(metric)}
            if len(self.of(metric)) > 1:
                found[f"{name}_std"] = self.std(metric)
            found |= {f"{name}_kpp_low": mark.low, f"{name}_kpp_high": mark.high}
        return found

    def table(self, k: float = 1.0) -> str:
        """A table of all metrics: mean with its 95 % interval, std, KPP with its interval, worst chip."""
        header = ["metric", "mean ± 95 %", "std", f"KPP {k:g} % [95 % interval]", "worst", "chip"]
        rows = [self._row(name, k) for name in self.values]
        lines = aligned([header, *rows])
        about = ", ".join(f"{name}: {value}" for name, value in self.about.items())
        lines.append(f"{len(self.chips)} chips" + (f"; {about}" if about else ""))
        if len(self.chips) < chips_needed(k):
            lines.append(
                f"note: {len(self.chips)} chips are few for a {k:g} % percentile; use at least {chips_needed(k)}."
            )
        return "\n".join(lines)

    def _row(self, name: str, k: float) -> list[str]:
        undefined = int(np.isnan(self.values[name]).sum())
        if undefined:
            return [
                name,
                f"NaN on {undefined} chips",
                "",
                "",
                "",
                str(self.chips[int(np.isnan(self.values[name]).argmax())]),
            ]
        return [
            name,
            f"{self.mean(name):.4f} ± {self.ci95(name):.4f}",
            f"{self.std(name):.4f}",
            str(self.kpp(name, k)),
            f"{self.worst(name):.4f}",
            str(self.worst_chip(name)),
        ]

    def __str__(self) -> str:
        return self.table()

    def plot(self, metric: str | None = None, k: float = 1.0, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Histogram of a metric over chips with its mean, its KPP and the KPP's interval.

        Args:
            metric: Which metric.
            k: The percentile to mark.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        name = self._name(metric)
        sample, mark = self.values[name], self.kpp(name, k)
        figure, ax = figure_and_axes(ax)
        ax.hist(sample, bins=_bins(sample), color="#9db4c8", edgecolor="white")
        low = mark.low if math.isfinite(mark.low) else sample.min()
        high = mark.high if math.isfinite(mark.high) else sample.max()
        ax.axvspan(low, high, color="#c0392b", alpha=0.15, label=f"95 % interval of KPP {k:g} %")
        ax.axvline(mark.value, color="#c0392b", label=f"KPP {k:g} % = {mark.value:.3f}")
        ax.axvline(self.mean(name), color="#1f4e79", linestyle="--", label=f"mean = {self.mean(name):.3f}")
        ax.set_xlabel(name)
        ax.set_ylabel("chips")
        ax.set_title(f"{len(self.chips)} simulated chips")
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a chip; the first line is a comment with what was evaluated."""
        rows = [{name: float(sample[i]) for name, sample in self.values.items()} for i in range(len(self.chips))]
        write_rows(Path(path), dict(self.about), dict(zip(self.chips, rows, strict=True)))

    @classmethod
    def from_csv(cls, path: str | Path) -> ChipResult:
        """Read what :meth:`to_csv`, or an evaluation with ``csv=``, wrote.

        Raises:
            ValueError: No such file, a broken line of it, or no chip in it.
        """
        about, rows = read_rows(Path(path))
        if not rows:
            raise ValueError(f"{path} holds no chip yet")
        return cls.from_rows(rows, {key: value for key, value in about.items() if key != "fingerprint"})

    @classmethod
    def from_rows(
        cls,
        rows: Mapping[int, Mapping[str, float]],
        about: Mapping[str, Any] | None = None,
        lower_is_better: tuple[str, ...] | None = None,
    ) -> ChipResult:
        """Build a result from one dictionary of metrics per chip."""
        chips = sorted(rows)
        names = list(rows[chips[0]])
        values = {name: np.array([rows[chip][name] for chip in chips], dtype=np.float64) for name in names}
        return cls(values, chips, about or {}, lower_is_better)

    def _name(self, metric: str | None) -> str:
        if metric is None:
            candidates = [name for name in self.values if not self.is_lower_better(name)] or self.metrics
            if len(candidates) > 1:
                raise ValueError(f"which metric? one of {json.dumps(self.metrics)}")
            return candidates[0]
        if metric not in self.values:
            raise ValueError(f"no metric {metric!r}; there are {json.dumps(self.metrics)}")
        return metric


def plain_name(metric: str) -> str:
    """A metric's name without its stage."""
    for prefix in _STAGES:
        if metric.startswith(prefix):
            return metric[len(prefix) :]
    return metric


def _bins(sample: np.ndarray) -> list[float]:
    """Edges of 10 to 40 bins; those of counted values, such as an accuracy, hold equally many possible values each."""
    count = min(40, max(10, len(sample) // 10))
    finite = sample[np.isfinite(sample)]
    values = np.unique(finite.round(9))
    step, span = 0.0, 0.0
    if len(values) > 1:
        step, span = float(np.diff(values).min()), float(values[-1] - values[0])
    if not step or span / step > 10_000:  # not counted
        return [float(edge) for edge in np.histogram_bin_edges(finite, bins=count)]
    width = step * max(1, math.ceil(span / step / count))
    first = float(values[0]) - step / 2
    return [first + width * place for place in range(math.ceil((span + step) / width) + 1)]
