"""How well anomaly maps find lesions: exact, volume by volume, and the mean over volumes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recipes.brain_mri.bootstrap import Interval, interval
from recipes.brain_mri.postprocess import Map, remove_small
from recipes.brain_mri.thresholds import Threshold

if TYPE_CHECKING:
    from recipes.brain_mri.volume import Volume

Values = NDArray[np.float64]


def dice(predicted: ArrayLike, seg: ArrayLike) -> float:
    """Dice coefficient, 2 TP / (predicted + lesion voxels), in [0, 1]; NaN if both are empty.

    Args:
        predicted: Binary, of any shape.
        seg: Lesion, of the same shape.

    Raises:
        ValueError: Shapes that differ.

    Example:
        >>> round(dice([1, 1, 0, 0], [0, 1, 1, 1]), 3)
        0.4
    """
    called, lesion = np.asarray(predicted, bool), np.asarray(seg, bool)
    if called.shape != lesion.shape:
        raise ValueError(f"prediction {called.shape} and lesion mask {lesion.shape} differ in shape")
    total = int(called.sum()) + int(lesion.sum())
    return 2 * int((called & lesion).sum()) / total if total else float("nan")


def average_precision(scores: ArrayLike, seg: ArrayLike) -> float:
    """Area under the precision-recall curve as the step sum over all thresholds, exact; equal scores are one step.

    Args:
        scores: Of any shape; their scale does not matter.
        seg: Lesion, of the same shape.

    Returns:
        In [0, 1]; NaN without a lesion, so that such a volume drops out of the mean.

    Raises:
        ValueError: Shapes that differ, or NaN.

    Example:
        >>> round(average_precision([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]), 4)
        0.8333
    """
    curve = _curve(scores, seg)
    if curve is None:
        return float("nan")
    true, called, lesion = curve
    steps = np.diff(true, prepend=0) / lesion
    return float((steps * true / called).sum())


def best_dice(scores: ArrayLike, seg: ArrayLike) -> float:
    """The largest Dice that any threshold gives this volume: an oracle, which looks at the lesion.

    Args:
        scores: Of any shape.
        seg: Lesion, of the same shape.

    Returns:
        In [0, 1]; NaN without a lesion.

    Raises:
        ValueError: Shapes that differ, or NaN.

    Example:
        >>> best_dice([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
        0.8
    """
    curve = _curve(scores, seg)
    if curve is None:
        return float("nan")
    true, called, lesion = curve
    return float((2 * true / (called + lesion)).max())


def auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Probability that a positive scores above a negative, ties counting half.

    Args:
        scores: Of any shape.
        labels: Of the same shape.

    Returns:
        In [0, 1]; NaN if one of the classes is missing.

    Raises:
        ValueError: Shapes that differ, or NaN.

    Example:
        >>> auroc([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0])
        0.75
    """
    values, positive = _checked(scores, labels)
    negatives, positives = np.sort(values[~positive]), values[positive]
    if not negatives.size or not positives.size:
        return float("nan")
    below = np.searchsorted(negatives, positives, side="left")
    not_above = np.searchsorted(negatives, positives, side="right")
    return float((below + not_above).mean() / (2 * negatives.size))


def false_positive_rate(predicted: ArrayLike, mask: ArrayLike, seg: ArrayLike | None = None) -> float:
    """Share of normal brain voxels that are called: FP / (FP + TN) inside the mask.

    Args:
        predicted: Binary, of any shape.
        mask: The brain, of the same shape.
        seg: Lesion, of the same shape; None where there is none.

    Returns:
        In [0, 1]; NaN without a normal voxel.

    Example:
        >>> false_positive_rate([1, 0, 1, 1], [1, 1, 1, 0], [0, 0, 1, 0])
        0.5
    """
    normal = np.asarray(mask, bool)
    if seg is not None:
        normal = normal & ~np.asarray(seg, bool)
    return float(np.asarray(predicted, bool)[normal].mean()) if normal.any() else float("nan")


@dataclass(frozen=True)
class Scores:
    """Scores of several volumes, each an array (volumes,) in [0, 1].

    Attributes:
        dice: At the threshold given, small components dropped.
        auprc: Average precision over all voxels, background included, before any threshold.
        auroc: Over the voxels of the brain: background would lift it towards 1.
        best_dice: Oracle: each volume at its own best threshold, all components kept.
        fpr: Share of normal brain voxels that are called, small components dropped.
        names: The volumes.

    NaN marks what a volume has no answer to; means leave it out.
    """

    dice: Values
    auprc: Values
    auroc: Values
    best_dice: Values
    fpr: Values
    names: tuple[str, ...]

    def mean(self) -> dict[str, float]:
        """The mean over volumes of each score, by name."""
        return {name: interval(values, draws=0).mean for name, values in self._values()}

    def interval(self, draws: int = 10_000, seed: int = 0) -> dict[str, Interval]:
        """Mean and 95 % bootstrap interval over volumes of each score, by name."""
        return {name: interval(values, draws, seed) for name, values in self._values()}

    def rows(self) -> list[dict[str, str | float]]:
        """One line a volume, for a CSV."""
        columns = self._values()
        return [
            {"volume": volume, **{name: float(values[at]) for name, values in columns}}
            for at, volume in enumerate(self.names)
        ]

    def _values(self) -> list[tuple[str, Values]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self) if field.name != "names"]


def score(maps: Sequence[Map], volumes: Sequence[Volume], threshold: Threshold) -> Scores:
    """Score the anomaly maps of volumes, with or without lesions.

    Args:
        maps: Post-processed, (H, W, D) each.
        volumes: Whose maps they are; one without ``seg`` counts as healthy.
        threshold: Of the binary map.

    Raises:
        ValueError: Not one map a volume, or shapes that differ.
    """
    lines = []
    for anomaly_map, volume in zip(maps, volumes, strict=True):
        seg = np.zeros(volume.mask.shape, bool) if volume.seg is None else volume.seg
        if anomaly_map.shape != seg.shape:
            raise ValueError(f"{volume.name}: map has shape {anomaly_map.shape}, lesion mask {seg.shape}")
        called = remove_small(threshold.binary(anomaly_map))
        lines.append(
            (
                dice(called, seg) if seg.any() else float("nan"),
                average_precision(anomaly_map, seg),
                auroc(anomaly_map[volume.mask], seg[volume.mask]),
                best_dice(anomaly_map, seg),
                false_positive_rate(called, volume.mask, seg),
            )
        )
    dices, auprcs, aurocs, bests, rates = np.array(lines, np.float64).reshape(-1, 5).T
    return Scores(dices, auprcs, aurocs, bests, rates, tuple(volume.name for volume in volumes))


def slice_scores(maps: Sequence[Map], volumes: Sequence[Volume]) -> dict[str, float]:
    """Whether a slice has a lesion, told by the mean of its map inside the brain.

    Args:
        maps: Post-processed, (H, W, D) each.
        volumes: Whose maps they are. Slices without brain are left out.

    Returns:
        ``slice_auroc`` and ``slice_auprc`` over all slices of all volumes; NaN if all are of one class.
    """
    means, labels = [np.zeros(0)], [np.zeros(0, bool)]
    for anomaly_map, volume in zip(maps, volumes, strict=True):
        brain = volume.mask.sum(axis=(0, 1))
        seen = brain > 0
        total = np.where(volume.mask, anomaly_map, 0).sum(axis=(0, 1), dtype=np.float64)
        means.append(total[seen] / brain[seen])
        lesion = np.zeros(volume.mask.shape, bool) if volume.seg is None else volume.seg
        labels.append(np.asarray(lesion[..., seen].any(axis=(0, 1))))
    scores, positive = np.concatenate(means), np.concatenate(labels)
    return {"slice_auroc": auroc(scores, positive), "slice_auprc": average_precision(scores, positive)}


def _curve(scores: ArrayLike, seg: ArrayLike) -> tuple[Values, Values, int] | None:
    """True positives and calls at the thresholds where recall rises, falling, and the lesion's size.

    Between them precision and Dice only fall, so these are all that exact AP and best Dice need.
    """
    values, lesion = _checked(scores, seg)
    if not lesion.any():
        return None
    everything, inside = np.sort(values, axis=None), np.sort(values[lesion])
    thresholds = np.unique(inside)[::-1]
    true = inside.size - np.searchsorted(inside, thresholds, side="left")
    called = everything.size - np.searchsorted(everything, thresholds, side="left")
    return true.astype(np.float64), called.astype(np.float64), inside.size


def _checked(scores: ArrayLike, labels: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    values, positive = np.asarray(scores), np.asarray(labels, bool)
    if values.shape != positive.shape:
        raise ValueError(f"scores {values.shape} and labels {positive.shape} differ in shape")
    if np.isnan(values).any():
        raise ValueError("scores hold NaN")
    return values, positive
