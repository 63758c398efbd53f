"""One diagnosis out of several windows: votes, their independence bound, and the time until an arrhythmia is declared.

The implant votes over six recordings. Windows of one patient share their errors, so a vote gains far less on real
patients than the binomial formula says; both belong in a report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipes.arrhythmia.records import FS
from recipes.arrhythmia.windows import Windows


@dataclass(frozen=True)
class VoteGroups:
    """Groups of consecutive windows that vote together.

    Attributes:
        members: int64 (V, n), indices into the windows, in time order.
        y: int64 (V,), label of each group.
        patient: str (V,), patient of each group.
        rhythm: str (V,), rhythm of each group.
        leftover: number of windows that fill no group of n and have no vote.
    """

    members: NDArray[np.int64]
    y: NDArray[np.int64]
    patient: NDArray[np.str_]
    rhythm: NDArray[np.str_]
    leftover: int

    def __len__(self) -> int:
        """Number of votes."""
        return len(self.members)

    def k_of_n(self, positive: ArrayLike, k: int = 3) -> NDArray[np.bool_]:
        """VA if at least `k` windows of a group are VA.

        With n = 6 and the default k = 3 a tie is VA, the sensitive choice.

        Args:
            positive: decision of every window, bool (N,).
            k: votes needed, 1 to n.

        Returns:
            Decision of every group, bool (V,).
        """
        n = self.members.shape[1]
        if not 1 <= k <= n:
            raise ValueError(f"k must be from 1 to n={n}, got {k}")
        votes: NDArray[np.int64] = np.asarray(positive, dtype=bool)[self.members].sum(axis=1)
        return votes >= k

    def mean_probability(self, probability: ArrayLike, threshold: float = 0.5) -> NDArray[np.bool_]:
        """VA if the mean VA probability of a group is above `threshold`: decisions, bool (V,)."""
        mean: NDArray[np.float64] = np.asarray(probability, dtype=np.float64)[self.members].mean(axis=1)
        return mean > threshold


def group_votes(windows: Windows, n: int = 6) -> VoteGroups:
    """Group windows by n: consecutive, non-overlapping, of one strip.

    A strip's windows are taken in time order from its first; a missing window (a gap between neighbours) starts a new
    group. Windows that fill no group of n are counted in `leftover`.

    Args:
        windows: cut with a hop of at least their length.
        n: windows in a vote, at least 1.

    Raises:
        ValueError: if windows of a strip overlap, or if a strip mixes patients, rhythms or labels.
    """
    if n < 1:
        raise ValueError(f"a vote needs n >= 1 windows, got {n}")
    length = windows.x.shape[1]
    members: list[NDArray[np.int64]] = []
    for strip in np.unique(windows.strip):
        index = np.flatnonzero(windows.strip == strip)
        index = index[np.argsort(windows.start[index], kind="stable")]
        _check_strip(windows, index, int(strip))
        step = np.diff(windows.start[index])
        if (step < length).any():
            raise ValueError(f"windows of strip {strip} overlap, votes would not be independent: cut with hop={length}")
        for run in np.split(index, np.flatnonzero(step > length) + 1):
            members += [run[i : i + n] for i in range(0, len(run) - n + 1, n)]
    table = np.array(members, dtype=np.int64).reshape(-1, n)
    first = table[:, 0]
    leftover = len(windows.strip) - table.size
    return VoteGroups(table, windows.y[first], windows.patient[first], windows.rhythm[first], leftover)


def binomial_vote(p: float, n: int = 6, k: int = 3) -> float:
    """Probability that at least k of n windows are right if their errors were independent, in [0, 1].

    Printed beside a measured vote as "binomial if independent". With n = 6 and k = 3 a tie counts as right, which holds
    for VA only: use k = 4 for the bound on non-VA.

    Args:
        p: probability that one window is right, in [0, 1].
        n: windows in a vote.
        k: right windows needed.

    Example:
        >>> round(binomial_vote(0.9235), 5)
        0.99955
    """
    if not 0 <= p <= 1:
        raise ValueError(f"p must be in [0, 1], got {p}")
    if not 0 <= k <= n:
        raise ValueError(f"k must be from 0 to n={n}, got {k}")
    return sum(comb(n, j) * p**j * (1 - p) ** (n - j) for j in range(k, n + 1))


def detection_latency(
    start: ArrayLike,
    positive: ArrayLike,
    onset: int,
    length: int = 512,
    n: int = 6,
    k: int = 3,
    early_exit: bool = False,
    inference_seconds: float = 0.0,
) -> float | None:
    """Seconds from the onset of an arrhythmia to the first declaration after it, or None if it is never declared.

    Without early exit the strip's windows vote in blocks of n, and a block is declared at the end of its last window.
    With early exit VA is declared at the end of any window at which k of the last n windows are VA. If the first window
    begins at the onset and all are right, that is 6 x 2.048 = 12.288 s without and 3 x 2.048 = 6.144 s with early exit;
    an onset late in a block adds up to k - 1 windows to the former. A declaration before the onset is a false alarm
    and does not count here.

    Args:
        start: first sample of each window, int (N,), increasing, windows not overlapping.
        positive: decision of each window, bool (N,).
        onset: sample at which the arrhythmia begins, at 250 Hz.
        length: samples in a window.
        n: windows in a vote.
        k: votes needed.
        early_exit: declare as soon as k of the last n are VA.
        inference_seconds: time to compute one window, added to the result.

    Example:
        >>> starts, calls = [0, 512, 1024, 1536, 2048, 2560], [1, 1, 1, 1, 1, 1]
        >>> detection_latency(starts, calls, 0), detection_latency(starts, calls, 0, early_exit=True)
        (12.288, 6.144)
    """
    first, called = np.asarray(start, dtype=np.int64), np.asarray(positive, dtype=bool)
    if first.shape != called.shape or first.ndim != 1:
        raise ValueError(f"start and positive must be (N,) alike, got {first.shape} and {called.shape}")
    if (np.diff(first) < length).any():
        raise ValueError(f"windows must be in time order and not overlap: starts at least {length} samples apart")
    if not 1 <= k <= n:
        raise ValueError(f"k must be from 1 to n={n}, got {k}")
    ends = range(len(first)) if early_exit else range(n - 1, len(first), n)
    for last in ends:
        end = int(first[last]) + length
        if end > onset and called[max(0, last - n + 1) : last + 1].sum() >= k:
            return (end - onset) / FS + inference_seconds
    return None


def latency_summary(latencies: Sequence[float | None]) -> dict[str, float]:
    """Median and worst latency in seconds over detected onsets, and the share of onsets never declared.

    The two latencies are NaN if nothing was detected.

    Example:
        >>> latency_summary([6.0, 8.0, 7.0, None])
        {'median_s': 7.0, 'worst_s': 8.0, 'undetected': 0.25}
    """
    if not latencies:
        raise ValueError("no onsets to summarise")
    detected = [latency for latency in latencies if latency is not None]
    return {
        "median_s": float(np.median(detected)) if detected else float("nan"),
        "worst_s": max(detected, default=float("nan")),
        "undetected": 1 - len(detected) / len(latencies),
    }


def _check_strip(windows: Windows, index: NDArray[np.int64], strip: int) -> None:
    for name in ("patient", "rhythm", "y"):
        found = np.unique(getattr(windows, name)[index])
        if len(found) > 1:
            raise ValueError(
                f"strip {strip} mixes {name} {found.tolist()}: votes need strips of one rhythm and unique strip "
                "numbers; for strips with an onset use detection_latency"
            )
