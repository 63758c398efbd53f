"""What happens at which step: image size, quantisation noise, rate term and learning rates.

The authors' schedule is made for 15,000 steps. A run of T steps passes the same stages at the same shares of T, and its
learning rates are `schedule_scale(T)` times as large, because features have as far to go in fewer steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

PUBLISHED_STEPS = 15_000
LARGEST_SCALE = 5.0
"""Learning rates beyond this times the published ones gain nothing."""
SCALE_POWER = 0.7
"""A run of a fifth of the steps does best with about three times the learning rates, not five times."""
OFFSET_FACTOR = 3.0
"""Our learning rate of offsets relative to the authors': a short run must move Gaussians as far."""

RATES = {
    "offset": (0.01, 0.0001),
    "feature": (0.0075, 0.0075),
    "log_scale": (0.007, 0.007),
    "shape_mlp": (0.004, 0.004),
    "color_mlp": (0.008, 0.00005),
    "context": (0.005, 0.00001),
}
"""Published learning rates at step 0 and, log-linearly, at step 30,000: twice the published length."""

_PUBLISHED_ENDS = {1: (1.0,), 2: (0.6, 1.0), 3: (0.2, 0.6, 1.0), 4: (0.1, 0.3, 0.6, 1.0)}
_ENDS = {1: (1.0,), 2: (0.45, 1.0), 3: (0.1, 0.45, 1.0), 4: (0.05, 0.2, 0.45, 1.0)}
"""Ours leave more of a short run to the full size."""
_QUIET = 300 / PUBLISHED_STEPS
"""Share of the run without noise at its start; twice that after each change of level."""

Noise = Literal["none", "base", "adaptive", "rounded"]


class Stage(NamedTuple):
    """What happens at one step.

    Attributes:
        level: 0 is the full size.
        noise: ``none``; ``base``: noise of the base steps; ``adaptive``: noise of the entropy model's steps, and the
            rate term; ``rounded``: rounding to these steps, and the rate term.
    """

    level: int
    noise: Noise


def schedule_scale(steps: int) -> float:
    """Factor of the learning rates of a run of so many steps.

    Example:
        >>> [round(schedule_scale(steps), 2) for steps in (15_000, 5_000, 800)]
        [1.0, 2.16, 5.0]
    """
    return min(LARGEST_SCALE, math.pow(PUBLISHED_STEPS / steps, SCALE_POWER))


@dataclass(frozen=True)
class Schedule:
    """Stages and learning rates of a run.

    Attributes:
        steps: Of the run.
        levels: Sizes, 1 to 4, fitted one after another.
        rate_from: Share of the run after which the rate term is on and quantisation steps adapt. The authors': 0.8.
        round_from: Share of the run after which attributes are rounded instead of noisy. The authors': 1.
        decay_from: Share of the run after which all learning rates fall to zero along a half cosine. The authors': 1.
        scale: Factor of the learning rates; default: `schedule_scale`.
        offset_factor: Factor of the offsets' learning rate. The authors': 1.
        published_levels: Levels change at the authors' shares of the run: for three 0.2 and 0.6, not 0.1 and 0.45.

    Raises:
        ValueError: Steps, levels or shares out of range.

    Example:
        >>> Schedule(15_000, levels=3, rate_from=0.8).at(0)
        Stage(level=2, noise='none')
    """

    steps: int
    levels: int = 3
    rate_from: float = 0.2
    round_from: float = 0.8
    decay_from: float = 0.8
    scale: float | None = None
    offset_factor: float = OFFSET_FACTOR
    published_levels: bool = False

    def __post_init__(self) -> None:
        if self.levels not in _ENDS:
            raise ValueError(f"levels={self.levels}: there are schedules for {', '.join(map(str, _ENDS))} levels")
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: want at least 1")
        for name in ("rate_from", "round_from", "decay_from"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: want a share of the run, 0 to 1")
        if self.scale is not None and self.scale <= 0:
            raise ValueError(f"scale={self.scale}: want a positive factor of the learning rates")

    @classmethod
    def published(cls, steps: int = PUBLISHED_STEPS, levels: int = 3, scale: float | None = None) -> Schedule:
        """The authors', stretched to so many steps."""
        return cls(steps, levels, 0.8, 1.0, 1.0, scale, offset_factor=1.0, published_levels=True)

    def at(self, step: int) -> Stage:
        """The stage of a step, counted from 0."""
        ends = (_PUBLISHED_ENDS if self.published_levels else _ENDS)[self.levels]
        begun = [0, *(self._count(end) for end in ends[:-1])]
        passed = sum(start <= step for start in begun) - 1
        level = self.levels - 1 - passed
        if step >= self._count(max(self.rate_from, self.round_from)):
            return Stage(level, "rounded")
        if step >= self._count(self.rate_from):
            return Stage(level, "adaptive")
        quiet = self._count(_QUIET * (2 if passed else 1))
        return Stage(level, "none" if step < begun[passed] + quiet else "base")

    def lr(self, name: str, step: int) -> float:
        """Learning rate of one of `RATES` at a step."""
        first, last = RATES[name]
        share = step / self.steps
        factor = schedule_scale(self.steps) if self.scale is None else self.scale
        if name == "offset":
            factor *= self.offset_factor
        if share > self.decay_from:
            factor *= 0.5 + 0.5 * math.cos(math.pi * (share - self.decay_from) / (1 - self.decay_from))
        return factor * first * math.pow(last / first, share / 2)

    def _count(self, share: float) -> int:
        return round(share * self.steps)
