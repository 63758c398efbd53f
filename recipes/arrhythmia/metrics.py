"""Metrics of VA detection, with the edge rules of the TinyML contest, and patient-level uncertainty.

Everywhere: `y` and `decision` are arrays (N,) of 0/1 or bool, 1 = VA; `patient` and `rhythm` are string arrays (N,).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Confusion:
    """Counts of decisions: true/false positives and negatives, VA being positive.

    Edge rules, as in the contest's evaluation code: no VA at all gives PPV = SEN = 1, VA present but none called gives
    PPV = 0 (so F = 0); likewise for NPV and SPE with non-VA.

    Example:
        >>> c = Confusion(tp=8, fp=2, tn=85, fn=5)
        >>> c.acc, c.ppv, round(c.sen, 4), round(c.f2, 4)
        (0.93, 0.8, 0.6154, 0.6452)
    """

    tp: int
    fp: int
    tn: int
    fn: int

    @property
    def total(self) -> int:
        """Number of decisions."""
        return self.tp + self.fp + self.tn + self.fn

    @property
    def acc(self) -> float:
        """Accuracy, in [0, 1]."""
        return (self.tp + self.tn) / self.total

    @property
    def ppv(self) -> float:
        """Positive predictive value (precision), in [0, 1]."""
        return _predictive_value(self.tp, self.fp, self.fn)

    @property
    def npv(self) -> float:
        """Negative predictive value, in [0, 1]."""
        return _predictive_value(self.tn, self.fn, self.fp)

    @property
    def sen(self) -> float:
        """Sensitivity (recall), in [0, 1]."""
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 1.0

    @property
    def spe(self) -> float:
        """Specificity, in [0, 1]."""
        return self.tn / (self.tn + self.fp) if self.tn + self.fp else 1.0

    @property
    def bac(self) -> float:
        """Balanced accuracy, in [0, 1]."""
        return (self.sen + self.spe) / 2

    @property
    def f1(self) -> float:
        """F1 score, in [0, 1]."""
        return self._f_beta(1.0)

    @property
    def f2(self) -> float:
        """F-beta score with beta = 2, the contest's metric, in [0, 1]."""
        return self._f_beta(2.0)

    @property
    def missed_va(self) -> float:
        """Share of VA that was missed, 1 - SEN, in [0, 1]."""
        return 1.0 - self.sen

    def as_dict(self) -> dict[str, float]:
        """Return every rate above by name, the counts first."""
        rates = ("acc", "ppv", "npv", "sen", "spe", "bac", "f1", "f2", "missed_va")
        counts: dict[str, float] = {"tp": self.tp, "fp": self.fp, "tn": self.tn, "fn": self.fn}
        return counts | {name: float(getattr(self, name)) for name in rates}

    def _f_beta(self, beta: float) -> float:
        denominator = beta**2 * self.ppv + self.sen
        return (1 + beta**2) * self.ppv * self.sen / denominator if denominator else 0.0


def _predictive_value(true: int, false: int, missed: int) -> float:
    """Share of calls of one class that are right; 1 if the class is absent, 0 if it is present but never called."""
    if true + missed == 0:
        return 1.0
    return true / (true + false) if true + false else 0.0


def confusion(y: ArrayLike, decision: ArrayLike) -> Confusion:
    """Count decisions (N,) against labels (N,).

    Raises:
        ValueError: if the arrays are empty, of different shapes, or hold anything but 0 and 1.

    Example:
        >>> confusion([1, 1, 0, 0], [1, 0, 0, 1])
        Confusion(tp=1, fp=1, tn=1, fn=1)
    """
    truth, called = _binary(y, "y"), _binary(decision, "decision")
    _same_length(truth, called)
    return Confusion(
        tp=int((truth & called).sum()),
        fp=int((~truth & called).sum()),
        tn=int((~truth & ~called).sum()),
        fn=int((truth & ~called).sum()),
    )


def by_group(y: ArrayLike, decision: ArrayLike, group: ArrayLike) -> dict[str, Confusion]:
    """Confusion of each group (patient, rhythm, strip), in sorted order of the group's name.

    Example:
        >>> {p: c.f2 for p, c in by_group([1, 0, 0], [0, 0, 1], ["a", "a", "b"]).items()}
        {'a': 0.0, 'b': 1.0}
    """
    truth, called, names = _binary(y, "y"), _binary(decision, "decision"), np.asarray(group)
    _same_length(truth, called, names)
    return {str(name): confusion(truth[names == name], called[names == name]) for name in np.unique(names)}


def rhythm_accuracy(y: ArrayLike, decision: ArrayLike, rhythm: ArrayLike) -> dict[str, float]:
    """Accuracy on the decisions of each rhythm, in [0, 1]."""
    return {name: counts.acc for name, counts in by_group(y, decision, rhythm).items()}


def patient_f2(y: ArrayLike, decision: ArrayLike, patient: ArrayLike) -> dict[str, float]:
    """F2 of each patient, in [0, 1], with the edge rules of `Confusion` (a patient without VA scores 1)."""
    return {name: counts.f2 for name, counts in by_group(y, decision, patient).items()}


def generalisation(y: ArrayLike, decision: ArrayLike, patient: ArrayLike) -> float:
    """G of the contest: the share of patients whose F2 is above 0.95, in [0, 1]."""
    return float(np.mean([f2 > 0.95 for f2 in patient_f2(y, decision, patient).values()]))


def false_alarms_per_hour(y: ArrayLike, decision: ArrayLike, seconds: float) -> float:
    """False alarms per hour of non-VA signal, one per decision that covers `seconds`.

    For votes of six windows of 512 samples at 250 Hz `seconds` is 12.288. NaN where there is no non-VA signal.

    Example:
        >>> false_alarms_per_hour([0, 0, 0, 1], [0, 1, 0, 1], seconds=12.0)
        100.0
    """
    if not seconds > 0:
        raise ValueError(f"seconds covered by one decision must be positive, got {seconds}")
    counts = confusion(y, decision)
    hours = (counts.fp + counts.tn) * seconds / 3600
    return counts.fp / hours if hours else float("nan")


def bootstrap_interval(
    y: ArrayLike,
    decision: ArrayLike,
    patient: ArrayLike,
    statistic: Callable[[Confusion], float],
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic` over patients.

    Patients are drawn with replacement and their windows pooled: windows of one patient share their errors, so an
    interval over windows would be far too narrow. A pure function of its arguments.

    Args:
        y: labels (N,).
        decision: decisions (N,).
        patient: patient of each decision (N,).
        statistic: maps the pooled confusion to a number, e.g. `lambda c: c.f2`.
        draws: bootstrap resamples.
        seed: of the resampling.
        level: coverage, in (0, 1).

    Returns:
        The lower and the upper end.
    """
    if draws < 1 or not 0 < level < 1:
        raise ValueError(f"need draws >= 1 and 0 < level < 1, got draws={draws}, level={level}")
    counts = by_group(y, decision, patient)
    table = np.array([[c.tp, c.fp, c.tn, c.fn] for c in counts.values()])
    times_drawn = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=draws)
    values = [statistic(Confusion(*(int(v) for v in row))) for row in times_drawn @ table]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def choose_threshold(y: ArrayLike, probability: ArrayLike) -> float:
    """Threshold that maximises F2, from *validation* windows only; never give it test windows.

    A window is VA if its probability is at least the threshold. Candidates lie halfway between neighbouring distinct
    probabilities, so all windows split the same way for any threshold in the gap; among equals the one nearest 0.5.

    Args:
        y: labels (N,) of validation windows, with both classes.
        probability: VA probability (N,), in [0, 1].

    Returns:
        The threshold, in (0, 1).

    Raises:
        ValueError: if a class is missing, a probability is not in [0, 1] or all are 0.

    Example:
        >>> choose_threshold([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.9])
        0.25
    """
    truth, p = _binary(y, "y"), np.asarray(probability, dtype=np.float64)
    _same_length(truth, p)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("probability holds values outside [0, 1] or NaN")
    if truth.all() or not truth.any():
        raise ValueError("choosing a threshold needs VA and non-VA windows in the validation set: use another split")
    levels, index = np.unique(p, return_inverse=True)
    # Called VA at candidate i: all windows at levels[i] or above.
    tp = np.cumsum(np.bincount(index[truth], minlength=len(levels))[::-1])[::-1]
    called = np.cumsum(np.bincount(index, minlength=len(levels))[::-1])[::-1]
    f2 = 5 * tp / (called + 4 * truth.sum())
    candidate = (np.concatenate([[0.0], levels[:-1]]) + levels) / 2
    # No threshold in (0, 1) calls a window of probability 0 VA.
    candidate, f2 = candidate[candidate > 0], f2[candidate > 0]
    if not candidate.size:
        raise ValueError("every probability is 0, so no threshold parts the windows: the model did not train")
    best = candidate[f2 == f2.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def summary(
    y: ArrayLike,
    decision: ArrayLike,
    patient: ArrayLike,
    seconds: float,
    draws: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """All pooled metrics of one set of decisions in one flat dictionary.

    Keys: those of `Confusion.as_dict`, `g`, `false_alarms_per_hour`, and `<m>_low`, `<m>_high` (95 % patient bootstrap)
    for m in acc, f2, missed_va.

    Args:
        y: labels (N,).
        decision: decisions (N,), of windows or of votes.
        patient: patient of each decision (N,).
        seconds: signal that one decision covers, e.g. 512 / 250 for windows.
        draws: bootstrap resamples.
        seed: of the bootstrap.
    """
    result = confusion(y, decision).as_dict()
    result["g"] = generalisation(y, decision, patient)
    result["false_alarms_per_hour"] = false_alarms_per_hour(y, decision, seconds)
    statistics: dict[str, Callable[[Confusion], float]] = {
        "acc": lambda c: c.acc,
        "f2": lambda c: c.f2,
        "missed_va": lambda c: c.missed_va,
    }
    for name, statistic in statistics.items():
        low, high = bootstrap_interval(y, decision, patient, statistic, draws, seed)
        result |= {f"{name}_low": low, f"{name}_high": high}
    return result


def _binary(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty array of one dimension, got shape {array.shape}")
    if not np.isin(array, (0, 1)).all():
        raise ValueError(f"{name} must hold only 0 and 1 (or booleans): compare probabilities with a threshold first")
    return array.astype(bool)


def _same_length(*arrays: NDArray[np.generic]) -> None:
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        raise ValueError(f"labels, decisions and groups must have one length, got {lengths}")
