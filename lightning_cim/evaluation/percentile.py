"""The k-th percentile over chips and an interval for it that assumes nothing about the distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True)
class Percentile:
    """A percentile with its confidence interval.

    Attributes:
        value: The sample percentile (linear interpolation, as ``numpy.quantile``).
        low: Lower end of the interval; -inf when there are too few chips to bound it.
        high: Upper end; inf when there are too few chips.
        k: The percentile, in per cent, counted from the worse end.
        chips: Sample size.
        confidence: At least this much coverage, whatever the distribution.
    """

    value: float
    low: float
    high: float
    k: float
    chips: int
    confidence: float

    def __str__(self) -> str:
        low = f"{self.low:.4f}" if math.isfinite(self.low) else "unbounded"
        high = f"{self.high:.4f}" if math.isfinite(self.high) else "unbounded"
        return f"{self.value:.4f} [{low}, {high}]"


def percentile(values: ArrayLike, k: float, lower_is_better: bool = False, confidence: float = 0.95) -> Percentile:
    """The k-th percentile from the worse end, with its order-statistic interval.

    With n chips sorted, [a_(l), a_(u)] covers the true percentile with the probability that a binomial count (n, k/100)
    lies in [l, u); l and u are the tightest ranks whose tails are each at most (1 - confidence) / 2 (Conover, Practical
    Nonparametric Statistics, section 3.2).

    Args:
        values: One value a chip, not empty.
        k: In per cent, 0 < k < 100. 1 is the usual realistic worst case (KPP).
        lower_is_better: For losses the worse end is the high one.
        confidence: 0 < confidence < 1.

    Raises:
        ValueError: No values, NaN, or k or confidence out of range.

    Example:
        >>> print(percentile(range(1, 101), k=50))
        50.5000 [40.0000, 61.0000]
    """
    sample = np.sort(np.asarray(values, dtype=np.float64))
    if sample.size == 0 or np.isnan(sample).any():
        raise ValueError("a percentile needs at least one value and no NaN")
    if not 0 < k < 100:
        raise ValueError(f"k is a percentile in per cent, 0 < k < 100, got {k!r}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    if lower_is_better:
        flipped = percentile(-sample, k, confidence=confidence)
        return Percentile(-flipped.value, -flipped.high, -flipped.low, k, flipped.chips, confidence)
    n, p, tail = sample.size, k / 100, (1 - confidence) / 2
    cumulative = np.cumsum(_binomial_pmf(n, p))  # P(count <= i)
    low_rank = int(np.searchsorted(cumulative, tail, side="right"))  # largest l with P(count <= l - 1) <= tail
    high_rank = int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1  # smallest u: P(count <= u - 1) >= 1 - tail
    low = sample[low_rank - 1] if low_rank >= 1 else -math.inf
    high = sample[high_rank - 1] if high_rank <= n else math.inf
    return Percentile(float(np.quantile(sample, p)), float(low), float(high), k, n, confidence)


def chips_needed(k: float) -> int:
    """Chips below which the k-th percentile is little more than the minimum: 10 / (k / 100).

    Example:
        >>> chips_needed(1.0)
        1000
    """
    return math.ceil(round(1000 / k, 6))


def _binomial_pmf(n: int, p: float) -> np.ndarray:
    counts = np.arange(n + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    log_pmf = log_factorial[n] - log_factorial[counts] - log_factorial[n - counts]
    return np.asarray(np.exp(log_pmf + counts * math.log(p) + (n - counts) * math.log1p(-p)))
