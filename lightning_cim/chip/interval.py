"""The interval rule of TRICE's automated search for the training sigma (arXiv 2307.15853), without any training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

SetName = Literal["left", "mid", "right"]
SETS: tuple[SetName, SetName, SetName] = ("left", "mid", "right")


@dataclass(frozen=True)
class Interval:
    """Where the search still looks for sigma.

    Attributes:
        low: Lower end, at least 0.
        high: Upper end, above ``low``.

    Raises:
        ValueError: Ends out of order, negative or not finite.

    Example:
        >>> Interval(0.0, 1.0).sigmas
        {'left': 0.25, 'mid': 0.5, 'right': 0.75}
        >>> Interval(0.0, 1.0).shrunk("left")
        Interval(low=0.0, high=0.75)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.high) and 0 <= self.low < self.high):
            raise ValueError(f"an interval of sigma needs 0 <= low < high < inf, got low={self.low}, high={self.high}")

    @property
    def width(self) -> float:
        """High minus low."""
        return self.high - self.low

    @property
    def sigmas(self) -> dict[SetName, float]:
        """The three training sigmas: low + q, the middle and high - q, with q a quarter of the width."""
        quarter = self.width / 4
        return {"left": self.low + quarter, "mid": (self.low + self.high) / 2, "right": self.high - quarter}

    def shrunk(self, winner: SetName) -> Interval:
        """The interval after one selection: three quarters when an outer set won, half when the middle one did.

        Args:
            winner: ``"left"`` cuts the upper quarter off, ``"right"`` the lower one, ``"mid"`` both.
        """
        quarter = self.width / 4
        low = self.low if winner == "left" else self.low + quarter
        high = self.high if winner == "right" else self.high - quarter
        return Interval(low, high)


def winner_of(scores: Mapping[SetName, float], lower_is_better: bool = False) -> SetName:
    """The set with the best score.

    A tie goes to the middle, whose shrunken interval keeps something of both sides, then to the left, which trains with
    less noise. NaN counts as worst.

    Args:
        scores: One score a set; at least one set.
        lower_is_better: For losses.

    Example:
        >>> winner_of({"left": 0.7, "mid": 0.7, "right": 0.6})
        'mid'
    """

    def goodness(name: SetName) -> float:
        score = scores[name]
        return -math.inf if math.isnan(score) else -score if lower_is_better else score

    return max((name for name in ("mid", "left", "right") if name in scores), key=goodness)  # the first of equals
