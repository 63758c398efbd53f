"""How much faster one optimizer finds good designs than another, defined before it is measured.

A threshold R* of the reward is fixed before anything runs. T is the first episode whose reward reaches R*, one a seed,
censored where the budget ended before. The speed-up at R* is the ratio of the medians of T, with a bootstrap interval.
Where more than half of the seeds of an arm are censored its median is unknown, and there is a bound but no number: the
end of the interval of the ratio in which that arm's censored times count as the whole budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

LEAST_SEEDS = 20
"""Fewer give an interval that is hardly worth printing."""
RESAMPLES = 2000
BEST_AT = (1, 5, 20, 100, 500)
"""Episodes at which the best so far is reported."""


def thresholds_of(landscape: ArrayLike, shares: Sequence[float] = (0.01, 0.001, 0.0001)) -> dict[str, float]:
    """Rewards that such a share of all designs reaches; known before any search where a space is tabulated.

    Args:
        landscape: Rewards of all designs.
        shares: Of the designs, in (0, 1).

    Raises:
        ValueError: A share out of range.

    Example:
        >>> thresholds_of(range(1, 1001), (0.01,))
        {'top 1%': 991.0}
    """
    rewards = np.asarray(landscape, dtype=float)
    found = {}
    for share in shares:
        if not 0 < share < 1:
            raise ValueError(f"a threshold is reached by a share of the designs in (0, 1), got {share}")
        rank = max(math.floor(share * rewards.size + 1e-9), 1)
        found[f"top {share * 100:g}%"] = float(np.partition(rewards, rewards.size - rank)[rewards.size - rank])
    return found


def threshold_of_runs(rewards: Sequence[ArrayLike], episodes: int = 500) -> float:
    """Median over a baseline's seeds of its best reward: the threshold where no table of the space is at hand.

    Take it from runs that are not part of the comparison, or the baseline is judged by its own luck.

    Raises:
        ValueError: No runs, or one that is shorter.
    """
    runs = [np.asarray(found, dtype=float) for found in rewards]
    if not runs or min(map(len, runs)) < episodes:
        raise ValueError(f"the threshold needs runs of at least {episodes} episodes")
    return float(np.median([found[:episodes].max() for found in runs]))


def time_to_target(rewards: ArrayLike, target: float) -> float:
    """Number of the first episode, from 1, whose reward reaches the target; infinite if none does.

    Example:
        >>> time_to_target([0.1, 0.5, 0.4], 0.4), time_to_target([0.1], 0.4)
        (2.0, inf)
    """
    reached = np.flatnonzero(np.asarray(rewards, dtype=float) >= target)
    return float(reached[0] + 1) if reached.size else math.inf


@dataclass(frozen=True)
class TimeToTarget:
    """Times of one arm, one a seed.

    Attributes:
        times: Episodes, infinite where the target was not reached.
        budget: Episodes that each seed had.

    Raises:
        ValueError: No times, or one beyond the budget.

    Example:
        >>> found = TimeToTarget((10.0, 20.0, math.inf), budget=100)
        >>> found.median, round(found.reached, 2), round(found.restricted_mean, 1)
        (20.0, 0.67, 43.3)
    """

    times: tuple[float, ...]
    budget: int

    def __post_init__(self) -> None:
        if not self.times:
            raise ValueError("a time to a target needs at least one seed")
        if any(math.isfinite(time) and not 1 <= time <= self.budget for time in self.times):
            raise ValueError(f"times are episodes from 1 to the budget of {self.budget}, or infinite: {self.times}")

    @property
    def reached(self) -> float:
        """Share of the seeds that reached the target."""
        return sum(map(math.isfinite, self.times)) / len(self.times)

    @property
    def median(self) -> float:
        """Over seeds; infinite where it is censored."""
        return float(_medians(np.array([self.times]))[0])

    @property
    def restricted_mean(self) -> float:
        """Mean over seeds of the time until the target or the end of the budget."""
        return float(np.mean([min(time, self.budget) for time in self.times]))

    def interval(self, confidence: float = 0.95, seed: int = 0) -> tuple[float, float]:
        """Bootstrap interval of the median; an end may be infinite.

        Raises:
            ValueError: ``confidence`` is not in (0, 1).
        """
        medians = _resampled(self.times, np.random.default_rng(seed))
        return _ends(medians, medians, confidence)


@dataclass(frozen=True)
class SpeedUp:
    """How much faster an arm reaches a target than the baseline.

    Attributes:
        ratio: Of the medians, baseline over arm; None where one of them is censored.
        low: Lower end of the interval; the bound where there is one from below.
        high: Upper end; the bound where there is one from above.
        bound: ``""``, ``">="`` (the baseline's median is censored), ``"<="`` (the arm's) or ``"?"`` (both).
    """

    ratio: float | None
    low: float
    high: float
    bound: str = ""

    def __str__(self) -> str:
        if self.bound == "?":
            return "unknown: more than half of the seeds of both missed it"
        if self.bound == ">=":
            return f">= {_short(self.low)}"
        if self.bound == "<=":
            return f"<= {_short(self.high)}"
        assert self.ratio is not None
        return f"{_short(self.ratio)} ({_short(self.low)} to {_short(self.high)})"


def speed_up(baseline: TimeToTarget, arm: TimeToTarget, confidence: float = 0.95, seed: int = 0) -> SpeedUp:
    """The speed-up of an arm over the baseline at one target.

    Seeds of the two arms are resampled independently.

    Args:
        baseline: Times of the baseline.
        arm: Times of the other.
        confidence: Of the interval, in (0, 1).
        seed: Of the bootstrap.

    Raises:
        ValueError: ``confidence`` out of range.

    Example:
        >>> slow, fast = TimeToTarget((80.0, 100.0, 120.0), 500), TimeToTarget((8.0, 10.0, 12.0), 500)
        >>> speed_up(slow, fast).ratio
        10.0
        >>> print(speed_up(TimeToTarget((math.inf,) * 3, 500), fast))
        >= 41.7
    """
    rng = np.random.default_rng(seed)
    above, below = _resampled(baseline.times, rng), _resampled(arm.times, rng)
    with np.errstate(invalid="ignore"):
        # The true times lie beyond the budget, so that these are too low and too high; x / inf is 0.
        lower, upper = np.minimum(above, baseline.budget) / below, above / np.minimum(below, arm.budget)
    low, high = _ends(lower, upper, confidence)
    is_known = [math.isfinite(found.median) for found in (baseline, arm)]
    if all(is_known):
        return SpeedUp(baseline.median / arm.median, low, high)
    if not any(is_known):
        return SpeedUp(None, 0.0, math.inf, "?")
    return SpeedUp(None, low, math.inf, ">=") if is_known[1] else SpeedUp(None, 0.0, high, "<=")


def speed_up_table(
    rewards: Mapping[str, Sequence[ArrayLike]], thresholds: Mapping[str, float], baseline: str
) -> list[list[str]]:
    """A row an arm and threshold, below a header.

    Args:
        rewards: By arm, one sequence of rewards a seed.
        thresholds: By name; fixed before the runs.
        baseline: The arm that others are compared with.

    Returns:
        Cells: threshold, arm, seeds, budget, median time with interval, share that reached it, restricted mean,
        speed-up.

    Raises:
        ValueError: The baseline is none of the arms.

    Example:
        >>> rows = speed_up_table({"slow": [[0, 0, 0, 1]] * 20, "fast": [[0, 1]] * 20}, {"R*": 1.0}, "slow")
        >>> rows[2][1:]
        ['fast', '20', '2', '2 (2 to 2)', '100%', '2', '2 (2 to 2)']
    """
    if baseline not in rewards:
        raise ValueError(f"the baseline {baseline!r} is none of the arms {', '.join(rewards)}")
    head = ["threshold", "arm", "seeds", "budget", "median episodes (95% CI)", "reached", "restricted mean"]
    rows = [[*head, f"speed-up over {baseline} (95% CI)"]]
    for name, target in thresholds.items():
        times = {arm: times_of(found, target) for arm, found in rewards.items()}
        for arm, found in times.items():
            rows.append(
                [
                    f"{name} ({target:.4f})",
                    arm,
                    str(len(found.times)),
                    str(found.budget),
                    _median_in_words(found),
                    f"{found.reached:.0%}",
                    _short(found.restricted_mean),
                    _speed_up_in_words(times[baseline], found) if arm != baseline else "",
                ]
            )
    return rows


def times_of(rewards: Sequence[ArrayLike], target: float) -> TimeToTarget:
    """Times of an arm to one target.

    Raises:
        ValueError: Seeds had different budgets, or there are none.
    """
    budgets = {np.asarray(found).size for found in rewards}
    if len(budgets) != 1:
        raise ValueError(f"all seeds of an arm need one budget, got {sorted(budgets) or 'no seeds'}")
    return TimeToTarget(tuple(time_to_target(found, target) for found in rewards), budgets.pop())


def best_at(rewards: Sequence[ArrayLike], episodes: Sequence[int] = BEST_AT) -> dict[int, float]:
    """Median over seeds of the best reward after so many episodes; those beyond the budget are left out.

    Example:
        >>> best_at([[0.1, 0.4, 0.2], [0.3, 0.2, 0.6]], (1, 2, 5))
        {1: 0.2, 2: 0.35}
    """
    best = [np.maximum.accumulate(np.asarray(found, dtype=float)) for found in rewards]
    shortest = min(map(len, best))
    return {count: float(np.median([found[count - 1] for found in best])) for count in episodes if count <= shortest}


def budget_ratio(baseline: int, arm: int) -> str:
    """The ratio that LCDA calls its speed-up, under its own name: nothing was measured.

    Example:
        >>> budget_ratio(500, 20)
        "budget ratio (LCDA's definition): 500 / 20 = 25; budgets were chosen, no time to a target was measured"
    """
    ratio = f"{baseline} / {arm} = {_short(baseline / arm)}"
    return f"budget ratio (LCDA's definition): {ratio}; budgets were chosen, no time to a target was measured"


def _median_in_words(found: TimeToTarget) -> str:
    if not math.isfinite(found.median):
        return f"> {found.budget}"
    if len(found.times) == 1:
        return f"{_short(found.median)} (one run)"
    low, high = found.interval()
    return f"{_short(found.median)} ({_short(low)} to {f'> {found.budget}' if math.isinf(high) else _short(high)})"


def _speed_up_in_words(baseline: TimeToTarget, arm: TimeToTarget) -> str:
    seeds = min(len(baseline.times), len(arm.times))
    if seeds < LEAST_SEEDS:
        return f"not given: {seeds} of at least {LEAST_SEEDS} seeds"
    return str(speed_up(baseline, arm))


def _resampled(times: Sequence[float], rng: np.random.Generator) -> Array:
    sample = np.asarray(times, dtype=float)
    return _medians(sample[rng.integers(sample.size, size=(RESAMPLES, sample.size))])


def _medians(rows: Array) -> Array:
    """Of each row, which may hold infinity; between two middle values, of which one is infinite, it is censored."""
    rows = np.sort(rows, axis=1)
    middle = rows.shape[1] // 2
    found: Array = rows[:, middle] if rows.shape[1] % 2 else 0.5 * (rows[:, middle - 1] + rows[:, middle])
    return found


def _ends(low: Array, high: Array, confidence: float) -> tuple[float, float]:
    """Percentiles that may be infinite: entries, not interpolated."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    tail = (1 - confidence) / 2
    place = math.floor(tail * low.size)
    return float(np.sort(low)[place]), float(np.sort(high)[high.size - 1 - place])


def _short(number: float) -> str:
    return "inf" if math.isinf(number) else f"{number:.3g}" if number < 1000 else f"{number:.0f}"
