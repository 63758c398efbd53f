"""A device that was measured at several times after programming."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

from torch import Tensor

from lightning_cim.variation.conductance import ROUNDING, Curve, Device, Polynomial
from lightning_cim.variation.times import label

NO_SHIFT = Polynomial((0.0,))


@dataclass(frozen=True)
class Blend(Curve):
    """(1 - share) * first + share * second.

    Attributes:
        first: A curve.
        second: Another one.
        share: Of the second, 0 to 1.
    """

    first: Curve
    second: Curve
    share: float

    def __call__(self, conductance: Tensor) -> Tensor:
        """Linear interpolation between the curves."""
        return self.first(conductance).mul_(1.0 - self.share).add_(self.second(conductance), alpha=self.share)

    def rescaled(self, ratio: float) -> Blend:
        """Both curves rescaled."""
        return Blend(self.first.rescaled(ratio), self.second.rescaled(ratio), self.share)


@dataclass(frozen=True)
class Retention:
    """The same device at two or more times after programming.

    Attributes:
        measured: (seconds, device) by increasing time; a first time of 0 is "right after programming".

    Raises:
        ValueError: Fewer than two times, or times that do not increase.
    """

    measured: tuple[tuple[float, Device], ...]

    def __post_init__(self) -> None:
        times = [time for time, _ in self.measured]
        if len(times) < 2 or any(late <= early for early, late in pairwise(times)):
            raise ValueError(f"retention needs two or more increasing times, got {times}")

    def map(self, change: Callable[[Device], Device]) -> Retention:
        """The same with every device changed."""
        return Retention(tuple((time, change(device)) for time, device in self.measured))

    def at(self, time: float) -> Device:
        """The device so many seconds after programming.

        Between two measurements the curves are interpolated linearly in ln(1 + t / 1 s).

        Raises:
            ValueError: Outside the measured times.
        """
        first, last = self.measured[0][0], self.measured[-1][0]
        if not first * (1 - ROUNDING) <= time <= last * (1 + ROUNDING):
            begin = label(first) if first else "programming"
            raise ValueError(
                f"{self.measured[0][1].name}: {label(time)} after programming was not measured; only {begin} to"
                f" {label(last)} were"
            )
        later = next((i for i, (t, _) in enumerate(self.measured[1:], 1) if t >= time), len(self.measured) - 1)
        (t0, early), (t1, late) = self.measured[later - 1], self.measured[later]
        share = (math.log1p(time) - math.log1p(t0)) / (math.log1p(t1) - math.log1p(t0))
        share = min(max(share, 0.0), 1.0)
        if share in (0.0, 1.0):
            return late if share else early
        shift = None
        if early.shift is not None or late.shift is not None:
            shift = Blend(early.shift or NO_SHIFT, late.shift or NO_SHIFT, share)
        return replace(
            early,
            name=f"{early.name} at {label(time)}",
            sigma=Blend(early.sigma, late.sigma, share),
            shift=shift,
            measured=(),
        )
