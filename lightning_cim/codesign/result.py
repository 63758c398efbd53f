"""What a search found."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned
from lightning_cim.codesign.llm.statistics import ReplyStatistics
from lightning_cim.codesign.objective import Objective
from lightning_cim.codesign.pareto import pareto_front
from lightning_cim.codesign.space import Space
from lightning_cim.codesign.trial import Trial

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SearchResult:
    """Trials of a search. Printing it prints :meth:`table`.

    Scores of a search are those of validation data, of whose noise the best design made the most: see
    :func:`~lightning_cim.codesign.winners.rescore`.

    Attributes:
        space: That was searched.
        objective: Reward and limits.
        trials: All, in order.
        about: Space, evaluator, optimizer, objective and seed.
        seconds: Wall time of ``"propose"`` (a language model's latency included) and ``"evaluate"``.
    """

    space: Space
    objective: Objective
    trials: tuple[Trial, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def rewards(self) -> NDArray[np.float64]:
        """One a trial."""
        return np.array([trial.reward for trial in self.trials], dtype=float)

    @property
    def best_so_far(self) -> NDArray[np.float64]:
        """Greatest reward up to each trial."""
        return np.maximum.accumulate(self.rewards) if self.trials else self.rewards

    @property
    def best(self) -> Trial:
        """The trial of the greatest reward, the first of several.

        Raises:
            ValueError: None could be evaluated.
        """
        return self.top(1)[0]

    def top(self, count: int) -> list[Trial]:
        """Best trials of different designs, best first.

        Raises:
            ValueError: None could be evaluated.
        """
        found: dict[str, Trial] = {}
        for trial in self.trials:
            if trial.status == "ok":
                found.setdefault(self.space.key(trial.design), trial)
        if not found:
            raise ValueError(f"none of the {len(self.trials)} trials could be evaluated: {self._reasons()}")
        return sorted(found.values(), key=lambda trial: -trial.reward)[:count]

    def pareto(self) -> list[Trial]:
        """Trials that none beats in accuracy, energy, latency and area at once."""
        return pareto_front(self.trials, self.objective.directions)

    @property
    def counts(self) -> dict[str, int]:
        """Trials by status, and ``duplicate``: proposals that had been made before in this search."""
        statuses = Counter(trial.status for trial in self.trials)
        duplicates = sum(bool(trial.meta.get("duplicate")) for trial in self.trials)
        return {"ok": statuses["ok"], "invalid": statuses["invalid"], "failed": statuses["failed"]} | {
            "duplicate": duplicates
        }

    @property
    def replies(self) -> ReplyStatistics | None:
        """What became of a language model's replies; None if none was asked."""
        found = ReplyStatistics.of(self.trials)
        return found if found.proposals else None

    def table(self, count: int = 5) -> str:
        """The best designs, and how the search went."""
        lines: list[str] = []
        if self.counts["ok"]:
            best = self.top(count)
            metrics = list(best[0].metrics)
            head = ["reward", *metrics, *self.space.names]
            rows = [
                [
                    f"{trial.reward:.4f}",
                    *(f"{trial.metrics[name]:.4g}" for name in metrics),
                    *(str(trial.design[name]) for name in self.space.names),
                ]
                for trial in best
            ]
            lines = [*aligned([head, *rows]), ""]
        counts = ", ".join(f"{value} {name}" for name, value in self.counts.items())
        spent = ", ".join(f"{name} {value:.1f} s" for name, value in self.seconds.items())
        lines.append(f"{len(self.trials)} episodes of {self.about.get('optimizer', 'the search')}: {counts}; {spent}")
        lines.append(f"reward: {self.objective.formula}; limits: {', '.join(self.objective.limits_in_words) or 'none'}")
        if self.replies is not None:
            lines += ["", self.replies.table()]
        return "\n".join(lines)

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Rewards of all trials, and the best so far.

        Args:
            ax: Draw here instead of on a new figure.
        """
        figure, axes = figure_and_axes(ax)
        valid = [trial for trial in self.trials if trial.status == "ok"]
        axes.plot([trial.number + 1 for trial in valid], [trial.reward for trial in valid], ".", color="#9db4c8", ms=4)
        axes.step(range(1, len(self.trials) + 1), self.best_so_far, where="post", color="#1f4e79", label="best so far")
        if valid:  # invalid ones lie at -1, far below
            low, high = min(trial.reward for trial in valid), max(trial.reward for trial in valid)
            margin = 0.05 * (high - low) or 0.01
            axes.set_ylim(low - margin, high + margin)
        axes.set(xlabel="episode", ylabel="reward", title=str(self.about.get("optimizer", "")))
        axes.legend(fontsize="small")
        return figure, axes

    def plot_pareto(self, against: str = "energy_pj", ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Accuracy against a hardware metric, the Pareto front of these two drawn as a line.

        Args:
            against: The hardware metric.
            ax: Draw here instead of on a new figure.
        """
        figure, axes = figure_and_axes(ax)
        accuracy = self.objective.accuracy
        valid = [trial for trial in self.trials if trial.status == "ok"]
        front = pareto_front(valid, {against: "minimize", accuracy: "maximize"})
        axes.plot(*_points(valid, against, accuracy), ".", color="#9db4c8", ms=4)
        axes.plot(*_points(front, against, accuracy), "o-", color="#c0392b", ms=4, lw=1, label="Pareto front")
        axes.set(xlabel=against, ylabel=accuracy, xscale="log")
        axes.legend(fontsize="small")
        return figure, axes

    def to_json(self, path: str | os.PathLike[str]) -> None:
        """Write what was searched, counts, the best trials and the Pareto front."""
        found = {
            "about": dict(self.about),
            "counts": self.counts,
            "seconds": dict(self.seconds),
            "best": [json.loads(trial.to_json()) for trial in (self.top(10) if self.counts["ok"] else [])],
            "pareto": [json.loads(trial.to_json()) for trial in self.pareto()],
            "replies": None if self.replies is None else self.replies.to_dict(),
        }
        Path(path).write_text(json.dumps(found, indent=1), encoding="utf-8")

    def _reasons(self) -> str:
        reasons = Counter(str(trial.meta.get("reason", trial.status)) for trial in self.trials)
        return "; ".join(f"{reason} ({count}x)" for reason, count in reasons.most_common(3)) or "there are no trials"

    def __str__(self) -> str:
        return self.table()


def _points(trials: list[Trial], x: str, y: str) -> tuple[list[float], list[float]]:
    return [trial.metrics[x] for trial in trials], [trial.metrics[y] for trial in trials]
