"""Learning rates and phases of a run as functions of the step alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

LAST = 0.05
"""What is left of a learning rate at the end."""


@dataclass(frozen=True)
class Schedule:
    """Learning rates that fall along half a cosine, after a short rise.

    Attributes:
        steps: Of the run.
        encoder: Largest learning rate of the image encoder.
        decoder: Of the decoder, its head and the feature volume.
        base: Of the base map.
        pose_from: Share of the run that takes poses as given; the pose encoder is pre-trained meanwhile.
        rise: Share of the run over which learning rates rise.

    Raises:
        ValueError: No steps, a learning rate that is not positive, or a share outside 0 to 1.

    Example:
        >>> schedule = Schedule(1000, rise=0.1)
        >>> [round(schedule.lr("encoder", step), 6) for step in (0, 99, 550, 999)]
        [1e-05, 0.001, 0.000525, 5e-05]
    """

    steps: int
    encoder: float = 1e-3
    decoder: float = 3e-3
    base: float = 1e-3
    pose_from: float = 0.3
    rise: float = 0.02

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps={self.steps}: want at least 1")
        for name in ("encoder", "decoder", "base"):
            if not getattr(self, name) > 0:
                raise ValueError(f"learning rate {name}={getattr(self, name)}: want a positive number")
        for name in ("pose_from", "rise"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}: want a share of the run, 0 to 1")

    def lr(self, name: str, step: int) -> float:
        """Learning rate of ``encoder``, ``decoder`` or ``base`` at a step, counted from 0."""
        largest: float = getattr(self, name)
        rise = max(1, round(self.rise * self.steps))
        if step < rise:
            return largest * max(step + 1, 0) / rise
        share = min(1.0, (step - rise) / max(1, self.steps - rise))
        return largest * (LAST + (1 - LAST) * (0.5 + 0.5 * math.cos(math.pi * share)))

    @property
    def pose_begin(self) -> int:
        """The step from which on poses are the model's own."""
        return round(self.pose_from * self.steps)
