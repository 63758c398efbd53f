"""Thresholds of anomaly maps. Each carries the text that says where it comes from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recipes.brain_mri.postprocess import Map, Mask

STEPS = 10
"""Of bisection."""
FALSE_POSITIVE_RATES = (0.01, 0.05, 0.1)
"""Of label-free thresholds, as the released code logs them."""


@dataclass(frozen=True)
class Threshold:
    """A voxel is anomalous if its value in the map is strictly above.

    Attributes:
        value: In units of the anomaly map.
        origin: What it was chosen for, on which data.
    """

    value: float
    origin: str

    def __str__(self) -> str:
        return f"{self.value:.4g} ({self.origin})"

    def binary(self, anomaly_map: Map) -> Mask:
        """Which voxels of a map are above, in its shape.

        Example:
            >>> Threshold(0.5, "given").binary(np.array([0.5, 0.6], np.float32))
            array([False,  True])
        """
        above: Mask = anomaly_map > anomaly_map.dtype.type(self.value)
        return above


def best_dice_bisection(maps: Sequence[Map], segs: Sequence[Mask], data: str = "lesion validation") -> Threshold:
    """The threshold of the best Dice over all voxels of all volumes together, by bisection.

    From [0, largest value], Dice is compared at one and three quarters and the half around the better is kept, ten
    times, the lower on ties (David Zimmerer's search, as in the released code). The best threshold that was tried is
    returned, the last on ties. Dice over thresholds may have several maxima, of which this finds one.

    Args:
        maps: Anomaly maps (H, W, D).
        segs: Lesions of the same shapes.
        data: What the volumes are, for the origin.

    Raises:
        ValueError: No volume, shapes that differ, values that are not finite, or no lesion at all.

    Example:
        >>> t = best_dice_bisection([np.array([0.1, 0.2, 0.8, 0.9])], [np.array([False, False, True, True])])
        >>> bool(0.2 <= t.value < 0.8), t.origin
        (True, 'best Dice of 1 lesion validation volume, bisection; Dice there 1.000')
    """
    if not maps or len(maps) != len(segs):
        raise ValueError(f"want one lesion mask for each map and at least one, got {len(maps)} maps, {len(segs)} masks")
    for number, (values, seg) in enumerate(zip(maps, segs, strict=True)):
        if values.shape != seg.shape:
            raise ValueError(f"volume {number}: map {values.shape} and lesion mask {seg.shape} differ in shape")
    # Sorted, so that counting above a threshold is a search.
    everything = np.sort(np.concatenate([np.ravel(values) for values in maps]))
    lesion = np.sort(np.concatenate([values[np.asarray(seg, bool)] for values, seg in zip(maps, segs, strict=True)]))
    if not np.isfinite(everything).all():
        raise ValueError("an anomaly map holds NaN or infinity")
    if lesion.size == 0:
        raise ValueError(f"no {data} volume has a lesion, so there is no best Dice: use a false-positive rate instead")

    def dice(threshold: float) -> float:
        called, found = (_above(sample, threshold) for sample in (everything, lesion))
        return 2.0 * found / (called + lesion.size)

    low, high = 0.0, float(everything[-1])
    best, best_at = -1.0, high
    for _ in range(STEPS):
        quarter, three_quarters = low + 0.25 * (high - low), low + 0.75 * (high - low)
        lower, upper = dice(quarter), dice(three_quarters)
        middle = 0.5 * (low + high)
        if lower >= upper:
            high, at, score = middle, quarter, lower
        else:
            low, at, score = middle, three_quarters, upper
        if score >= best:
            best, best_at = score, at
    return Threshold(best_at, f"best Dice of {_count(len(maps), data)}, bisection; Dice there {best:.3f}")


def at_false_positive_rate(
    maps: Sequence[Map], masks: Sequence[Mask], rate: float, data: str = "healthy validation"
) -> Threshold:
    """The smallest threshold that calls at most a share of the healthy brain voxels; needs no lesion.

    Args:
        maps: Anomaly maps of healthy volumes, (H, W, D).
        masks: Their brains.
        rate: The share, in (0, 1).
        data: What the volumes are, for the origin.

    Raises:
        ValueError: No voxel, values that are not finite, or a rate out of range.

    Example:
        >>> at_false_positive_rate([np.arange(100.0)], [np.ones(100, bool)], 0.05)
        Threshold(value=94.0, origin='5 % false positives in 1 healthy validation volume')
    """
    if not 0 < rate < 1:
        raise ValueError(f"a false-positive rate must lie in (0, 1), got {rate}")
    inside: NDArray[np.floating] = np.concatenate(
        [np.zeros(0, np.float32)] + [values[np.asarray(mask, bool)] for values, mask in zip(maps, masks, strict=True)]
    )
    if inside.size == 0:
        raise ValueError("no brain voxel in the healthy volumes to find a false-positive rate in")
    if not np.isfinite(inside).all():
        raise ValueError("an anomaly map holds NaN or infinity")
    allowed = math.floor(rate * inside.size)
    value = float(np.partition(inside, inside.size - 1 - allowed)[inside.size - 1 - allowed])
    return Threshold(value, f"{100 * rate:g} % false positives in {_count(len(maps), data)}")


def _above(ordered: NDArray[np.floating], threshold: float) -> int:
    """How many values of a sorted sample are strictly above, compared as :meth:`Threshold.binary` does."""
    return int(ordered.size - np.searchsorted(ordered, ordered.dtype.type(threshold), side="right"))


def _count(number: int, what: str) -> str:
    return f"{number} {what} volume{'s' if number != 1 else ''}"
