"""Controls without which a good score means little: unseen images, and data that do not move."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recipes.cryo_em.evaluate import Heterogeneous, aligned, encode
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.scores import spearman
from recipes.cryo_em.states import principal_components

LARGEST_AMPLITUDE = 0.2
"""Of the motion found in data that do not move, relative to that found in data that do."""
LARGEST_GAP = 0.05
"""Between the rank correlations of seen and unseen images."""


@dataclass(frozen=True)
class HeldOut:
    """Rank correlation of the first component with the true label, of images that training saw and did not see.

    Attributes:
        seen: Spearman's.
        unseen: Of the others, along the axis of the seen ones.
    """

    seen: float
    unseen: float

    @property
    def passed(self) -> bool:
        """Whether they differ by no more than `LARGEST_GAP`."""
        return abs(self.seen - self.unseen) <= LARGEST_GAP

    def numbers(self) -> dict[str, Any]:
        """For ``metrics.json``."""
        return {**asdict(self), "passed": self.passed}


def held_out(model: Heterogeneous, seen: Particles, unseen: Particles) -> HeldOut:
    """Whether the encoder generalises.

    Args:
        model: Trained on ``seen``.
        seen: With labels.
        unseen: With labels, standardised alike.

    Raises:
        ValueError: No labels.
    """
    if seen.labels is None or unseen.labels is None:
        raise ValueError("held-out encoding is scored against true labels: these particles were not simulated")
    components = aligned(principal_components(encode(model, seen), 1), seen.labels)
    beyond = (encode(model, unseen).flatten(1).double() - components.mean) @ components.axes[0]
    return HeldOut(spearman(components.scores[:, 0], seen.labels.double()), spearman(beyond, unseen.labels.double()))


def still(scores: dict[str, Any], moving: dict[str, Any]) -> dict[str, Any]:
    """The negative control: motion found in data of one conformation beside that found in data that move.

    Args:
        scores: Of the model fitted to one conformation (``--data.frames=one``), as `evaluate.Evaluation.scores`.
        moving: Of the model fitted, with the same options, to all.

    Returns:
        Both amplitudes, their ``ratio``, and whether it is at most `LARGEST_AMPLITUDE`.

    Raises:
        ValueError: The second model found no motion at all.
    """
    if not moving["amplitude"] > 0:
        raise ValueError("the model of moving data found no motion: there is nothing to compare with")
    ratio = scores["amplitude"] / moving["amplitude"]
    return {
        "still": scores["amplitude"],
        "moving": moving["amplitude"],
        "ratio": ratio,
        "passed": ratio <= LARGEST_AMPLITUDE,
    }
