"""Percentile bootstrap over volumes, and over training seeds where there are several."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 10_000
LEVEL = 0.95
_AT_ONCE = 500
"""Draws whose samples are held in memory together."""


class Interval(NamedTuple):
    """A mean with its 95 % interval; NaN where there is nothing to average, or nothing to draw from."""

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """A mean difference of pairs with its 95 % interval."""

    difference: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether 0 lies outside the interval."""
        return self.low > 0 or self.high < 0


def interval(values: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Interval:
    """The mean of values and its bootstrap interval.

    Args:
        values: (volumes,), or (seeds, volumes) for the same volumes under several trainings: then both are drawn.
            NaN is left out.
        draws: Of the bootstrap; 0 for the mean alone.
        seed: Of the draws.

    Raises:
        ValueError: Another shape.

    Example:
        >>> interval([0.5, float("nan"), 0.5])
        Interval(mean=0.5, low=0.5, high=0.5)
    """
    table = np.asarray(values, np.float64)
    if table.ndim not in (1, 2):
        raise ValueError(f"want values (volumes,) or (seeds, volumes), got shape {table.shape}")
    table = np.atleast_2d(table)
    if np.isnan(table).all():  # also where there are no values
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(np.nanmean(table))
    if draws == 0:
        return Interval(mean, float("nan"), float("nan"))
    means = np.concatenate(list(_means(table, draws, seed)))
    low, high = np.nanquantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(mean, float(low), float(high))


def paired_bootstrap(a: ArrayLike, b: ArrayLike, draws: int = DRAWS, seed: int = 0) -> Difference:
    """Mean of a - b over volumes and its bootstrap interval, each volume compared with itself.

    Args:
        a: (volumes,), or (seeds, volumes).
        b: The same volumes (and seeds) in the same order. A pair with NaN is left out.
        draws: Of the bootstrap.
        seed: Of the draws.

    Raises:
        ValueError: Shapes that differ.

    Example:
        >>> paired_bootstrap([0.5, 0.75], [0.25, 0.5])
        Difference(difference=0.25, low=0.25, high=0.25)
    """
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.shape != second.shape:
        raise ValueError(f"want pairs, got shapes {first.shape} and {second.shape}")
    return Difference(*interval(first - second, draws, seed))


def _means(table: NDArray[np.float64], draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Means of resampled tables, in portions."""
    random = np.random.default_rng(seed)
    rows, columns = table.shape
    known, filled = ~np.isnan(table), np.nan_to_num(table)
    for begin in range(0, draws, _AT_ONCE):
        count = min(_AT_ONCE, draws - begin)
        row = random.integers(rows, size=(count, rows, 1))
        column = random.integers(columns, size=(count, 1, columns))
        number = known[row, column].sum(axis=(1, 2))
        total = filled[row, column].sum(axis=(1, 2))
        yield np.divide(total, number, out=np.full(count, np.nan), where=number > 0)
