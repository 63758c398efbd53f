"""Positions in no particular order: the sum of Gaussians does not depend on it, and so a file need not pay for it.

The grid is halved again and again, the longer side first; of every part that holds points the file tells how many lie
in the first half. For N points spread evenly that takes log2(N!) bits less than N addresses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

CROWD = 64
"""In parts of at least so many points each count is held to be as likely as any other; in those with fewer, each point
falls into either half by its area."""


class Parts(NamedTuple):
    """Parts of the grid that hold points.

    Attributes:
        low: (n, 2) first column and row.
        size: (n, 2) columns and rows.
        points: (n,) how many are inside.
    """

    low: Ints
    size: Ints
    points: Ints


class Split(NamedTuple):
    """The next halving.

    Attributes:
        parts: What is halved.
        axis: (n,) 0 where columns are halved, 1 where rows are.
        first: (n,) columns or rows of the first half; all of them where a part is a single cell.
    """

    parts: Parts
    axis: Ints
    first: Ints

    @property
    def open(self) -> NDArray[np.bool_]:
        """Which parts have more than one cell, (n,)."""
        return self.first < self._length

    @property
    def share(self) -> NDArray[np.float64]:
        """Share of each part's area in its first half, (n,)."""
        return self.first / self._length

    @property
    def cut(self) -> Ints:
        """First column or row of the second half, (n,)."""
        return self.parts.low[np.arange(len(self.axis)), self.axis] + self.first

    @property
    def _length(self) -> Ints:
        return self.parts.size[np.arange(len(self.axis)), self.axis]


Counter = Callable[[Split], Ints]
"""Tells how many points of each part lie in its first half, (n,)."""


def halve(columns: int, rows: int, count: int, count_first: Counter) -> Parts:
    """Halve the grid until every part is one cell.

    Args:
        columns: Of the grid.
        rows: Of the grid.
        count: Points on it.
        count_first: Asked once for every round of halvings.

    Returns:
        The cells that hold points, in the order in which the file tells them.
    """
    none = (1, 2) if count else (0, 2)
    parts = Parts(np.zeros(none, np.int64), np.tile([columns, rows], (none[0], 1)), np.full(none[0], count))
    while (parts.size > 1).any():
        split = _split(parts)
        first = count_first(split)
        parts = _halves(split, first)
    return parts


def leaf_order(cells: Ints, columns: int, rows: int) -> Ints:
    """Order in which the file tells points (N, 2), column and row; points of one cell stay in their order.

    Example:
        >>> leaf_order(np.array([[3, 0], [0, 1], [0, 0]]), 4, 2).tolist()
        [2, 1, 0]
    """
    return np.argsort(_Finder(cells).leaves(columns, rows), kind="stable")


class _Finder:
    """Follows points through the halvings."""

    def __init__(self, cells: Ints) -> None:
        self.cells = cells
        self.part = np.zeros(len(cells), np.int64)

    def __call__(self, split: Split) -> Ints:
        own = self.part
        second = self.cells[np.arange(len(own)), split.axis[own]] >= split.cut[own]
        second_count = np.bincount(own[second], minlength=len(split.axis))
        first = split.parts.points - second_count
        kept = np.stack([first, second_count], 1).reshape(-1) > 0
        self.part = (np.cumsum(kept) - 1)[2 * own + second]
        return first

    def leaves(self, columns: int, rows: int) -> Ints:
        halve(columns, rows, len(self.cells), self)
        return self.part


def count_in(cells: Ints) -> Counter:
    """The counter that knows the points (N, 2)."""
    return _Finder(cells)


def cells_of(parts: Parts) -> Ints:
    """The points that single-cell parts hold, (N, 2)."""
    return np.repeat(parts.low, parts.points, axis=0)


def _split(parts: Parts) -> Split:
    axis = (parts.size[:, 1] > parts.size[:, 0]).astype(np.int64)
    return Split(parts, axis, (parts.size[np.arange(len(axis)), axis] + 1) // 2)


def _halves(split: Split, first: Ints) -> Parts:
    low, size, points = split.parts
    index = np.arange(len(first))
    first_size, second_size, second_low = size.copy(), size.copy(), low.copy()
    first_size[index, split.axis] = split.first
    second_size[index, split.axis] -= split.first
    second_low[index, split.axis] += split.first

    def both(one: Ints, other: Ints) -> Ints:
        return np.stack([one, other], 1).reshape(-1, *one.shape[1:])

    counts = both(first, points - first)
    kept = counts > 0
    return Parts(both(low, second_low)[kept], both(first_size, second_size)[kept], counts[kept])


def write_points(coder: Any, cells: Ints, columns: int, rows: int) -> None:
    """Append points (N, 2), column and row on a grid, to a range encoder of `constriction`."""
    counter = count_in(cells)

    def first(split: Split) -> Ints:
        counts = counter(split)
        for chosen, model, parameters in _models(split):
            coder.encode(counts[chosen].astype(np.int32), model, *parameters)
        return counts

    halve(columns, rows, len(cells), first)


def read_points(coder: Any, count: int, columns: int, rows: int) -> Ints:
    """Points (N, 2) from a range decoder, in the order of `leaf_order`."""

    def first(split: Split) -> Ints:
        counts = split.parts.points.copy()
        for chosen, model, parameters in _models(split):
            counts[chosen] = coder.decode(model, *parameters)
        return counts

    return cells_of(halve(columns, rows, count, first))


def _models(split: Split) -> list[tuple[Ints, Any, tuple[NDArray[Any], ...]]]:
    """Parts that are halved, in two groups: which, the model of their counts, and its parameters."""
    count = split.parts.points
    crowds = (split.open & (count >= CROWD)).nonzero()[0]
    others = (split.open & (count < CROWD)).nonzero()[0]
    found = [
        (crowds, stream().model.Uniform(), ((count[crowds] + 1).astype(np.int32),)),
        (others, stream().model.Binomial(), (count[others].astype(np.int32), split.share[others])),
    ]
    return [group for group in found if group[0].size]


def stream() -> Any:
    """The library of the range coder, imported when first needed."""
    try:
        from constriction import stream
    except ImportError as error:
        raise ImportError("the codec needs constriction: pip install 'lightning-cim[sgi]'") from error
    return stream
