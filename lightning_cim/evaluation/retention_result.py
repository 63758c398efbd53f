"""What an evaluation over chips found at several times since programming."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim.evaluation.journal import CHIP_TIMES
from lightning_cim.evaluation.percentile import chips_needed
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.variation.times import SECONDS, label, seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class RetentionResult:
    """Metrics of every chip at several times since programming. Printing it prints :meth:`table`.

    Attributes:
        results: What the chips are at each time, by seconds.
        about: What was evaluated: variation, seed, stage and so on; printed below the table.

    Raises:
        ValueError: No time, or other metrics at one time than at another.

    Example:
        >>> early, late = (ChipResult({"acc": np.array(values)}, [0, 1]) for values in ([0.9, 0.8], [0.7, 0.4]))
        >>> result = RetentionResult({1.0: early, 3600.0: late})
        >>> result.times, round(result.at("1h").mean("acc"), 3)
        ([1.0, 3600.0], 0.55)
    """

    results: Mapping[float, ChipResult]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.results:
            raise ValueError("RetentionResult: there is no chip at any time")
        if any(result.metrics != self._first.metrics for result in self.results.values()):
            raise ValueError("RetentionResult: the metrics must be the same at all times")
        object.__setattr__(self, "results", dict(sorted(self.results.items())))

    @property
    def times(self) -> list[float]:
        """Seconds since programming, increasing."""
        return list(self.results)

    @property
    def metrics(self) -> list[str]:
        """Names of the metrics."""
        return self._first.metrics

    def at(self, time: str | float) -> ChipResult:
        """The chips at one of the times.

        Args:
            time: Seconds, or a text such as ``"1h"``.

        Raises:
            ValueError: No chip was evaluated then.
        """
        wanted = seconds(time)
        nearest = min(self.results, key=lambda found: abs(found - wanted))
        if math.isclose(nearest, wanted):
            return self.results[nearest]
        raise ValueError(f"no chip was evaluated at {label(wanted)}; the times are {', '.join(map(label, self.times))}")

    def table(self, metric: str | None = None, k: float = 1.0) -> str:
        """A row for each time: mean with its 95 % interval, std, KPP with its interval, worst chip.

        Args:
            metric: Which metric; None: all, one after another.
            k: The percentile, in per cent.
        """
        header = ["metric", "time", "mean ± 95 %", "std", f"KPP {k:g} % [95 % interval]", "worst", "chip"]
        rows = []
        for name in self.metrics if metric is None else [self._first._name(metric)]:
            for time, result in self.results.items():
                _, *numbers = result._row(name, k)
                rows.append([name, label(time), *numbers])
        about = ", ".join(f"{name}: {value}" for name, value in self.about.items())
        fewest = min(self._counts)
        lines = aligned([header, *rows])
        lines.append(f"{self._counted} chips at each time" + (f"; {about}" if about else ""))
        if fewest < chips_needed(k):
            lines.append(f"note: {fewest} chips are few for a {k:g} % percentile; use at least {chips_needed(k)}.")
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self, metric: str | None = None, k: float = 1.0, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """A metric against time: its mean, the band of the chips and the KPP with its interval.

        Args:
            metric: Which metric; None: the only one that is no loss.
            k: The percentile to mark; the band reaches from the k-th to the (100 - k)-th percentile of the chips.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes; time is logarithmic.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        name, times = self._first._name(metric), self.times
        samples = [result.of(name) for result in self.results.values()]
        marks = [result.kpp(name, k) for result in self.results.values()]
        value = np.array([mark.value for mark in marks])
        # An interval that too few chips leave open reaches to the last of them.
        least, most = [sample.min() for sample in samples], [sample.max() for sample in samples]
        low, high = np.maximum([mark.low for mark in marks], least), np.minimum([mark.high for mark in marks], most)
        quantiles = [np.quantile(sample, (k / 100, 1 - k / 100)) for sample in samples]
        figure, ax = figure_and_axes(ax)
        ax.set_xscale("log")
        ax.fill_between(
            times,
            *np.sort(quantiles).T,
            color="#9db4c8",
            alpha=0.5,
            linewidth=0,
            label=f"chips, {min(k, 100 - k):g} % to {max(k, 100 - k):g} %",
        )
        ax.plot(times, [sample.mean() for sample in samples], color="#1f4e79", linestyle="--", marker=".", label="mean")
        reach = np.maximum([value - low, high - value], 0)  # a few chips' percentile may lie outside of its interval
        ax.errorbar(times, value, reach, color="#c0392b", marker=".", capsize=3, label=f"KPP {k:g} %, 95 % interval")
        _label_times(ax, times)
        ax.set_xlabel("time since programming")
        ax.set_ylabel(name)
        ax.set_title(f"{self._counted} simulated chips")
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a chip and time; the first line is a comment with what was evaluated."""
        rows = {
            (chip, time): {name: float(sample[i]) for name, sample in result.values.items()}
            for time, result in self.results.items()
            for i, chip in enumerate(result.chips)
        }
        CHIP_TIMES.write(Path(path), dict(self.about), dict(sorted(rows.items())))

    @classmethod
    def from_csv(cls, path: str | Path) -> RetentionResult:
        """Read what :meth:`to_csv`, or an evaluation with ``csv=`` and ``times=``, wrote.

        Raises:
            ValueError: No such file, a broken line of it, or no chip in it.
        """
        about, rows = CHIP_TIMES.read(Path(path))
        if not rows:
            raise ValueError(f"{path} holds no chip yet")
        return cls.from_rows(rows, {key: value for key, value in about.items() if key != "fingerprint"})

    @classmethod
    def from_rows(
        cls,
        rows: Mapping[tuple[int, float], Mapping[str, float]],
        about: Mapping[str, Any] | None = None,
        lower_is_better: tuple[str, ...] | None = None,
    ) -> RetentionResult:
        """Build a result from one dictionary of metrics per chip and time in seconds."""
        by_time: dict[float, dict[int, Mapping[str, float]]] = {}
        for (chip, time), row in rows.items():
            by_time.setdefault(time, {})[chip] = row
        about = about or {}
        results = {
            time: ChipResult.from_rows(chips, {**about, "time": label(time)}, lower_is_better)
            for time, chips in by_time.items()
        }
        return cls(results, about)

    @property
    def _first(self) -> ChipResult:
        return next(iter(self.results.values()))

    @property
    def _counts(self) -> list[int]:
        """Chips at each time; a run that was killed leaves some out."""
        return [len(result.chips) for result in self.results.values()]

    @property
    def _counted(self) -> str:
        fewest, most = min(self._counts), max(self._counts)
        return f"{most}" if fewest == most else f"{fewest} to {most}"


def _label_times(ax: Axes, times: list[float]) -> None:
    """Ticks at whole units of time, or at the times themselves where fewer than two units lie between them."""
    units = [unit for unit in (*SECONDS.values(), 10 * SECONDS["y"]) if times[0] <= unit <= times[-1]]
    ticks = units if len(units) > 1 else times
    ax.set_xticks(ticks, [label(tick) for tick in ticks])
    ax.set_xticks([], minor=True)
