"""Trained models on volumes with lesions: thresholds from validation volumes, scores from test volumes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from recipes.brain_mri.air import air
from recipes.brain_mri.module import BrainModule, Examined
from recipes.brain_mri.postprocess import Map, anomaly_map
from recipes.brain_mri.residuals import Kind, residual
from recipes.brain_mri.scores import Scores, score, slice_scores
from recipes.brain_mri.thresholds import (
    FALSE_POSITIVE_RATES,
    Threshold,
    at_false_positive_rate,
    best_dice_bisection,
)
from recipes.brain_mri.volume import Volume

Thresholds = dict[str, Threshold]
"""``best dice`` (if there are validation volumes with lesions) and ``fpr 1``, ``fpr 5``, ``fpr 10``."""

BEST_DICE, LABEL_FREE = "best dice", "fpr 5"
INTENSITY = "intensity"
"""The map that needs no model: the image itself, post-processed as the others are."""


@dataclass(frozen=True)
class Cell:
    """One anomaly map, on all test volumes.

    Attributes:
        trained: Loss that the model was trained with; "-" without a model.
        map: Residual at test time, or ``intensity``.
        thresholds: From validation volumes.
        scores: At `threshold`.
        label_free: At the threshold of 5 % false positives in healthy validation volumes.
        healthy_fpr: Share of brain voxels called in healthy validation volumes, at `threshold`; NaN without any.
        slices: ``slice_auroc`` and ``slice_auprc``.
    """

    trained: str
    map: str
    thresholds: Thresholds
    scores: Scores
    label_free: Scores | None
    healthy_fpr: float
    slices: dict[str, float]

    @property
    def name(self) -> str:
        """For tables and files."""
        return f"{self.trained}/{self.map}"

    @property
    def threshold(self) -> Threshold:
        """The one that maps are cut at."""
        return chosen(self.thresholds)

    def row(self) -> dict[str, Any]:
        """Means, with intervals, for JSON; what is unknown is None."""
        known = {name: list(map(_or_none, values)) for name, values in self.scores.interval().items()}
        return {
            "trained": self.trained,
            "map": self.map,
            "threshold": asdict(self.threshold),
            **known,
            "label_free_dice": None if self.label_free is None else _or_none(self.label_free.mean()["dice"]),
            "healthy_fpr": _or_none(self.healthy_fpr),
            **{name: _or_none(value) for name, value in self.slices.items()},
        }


def chosen(thresholds: Mapping[str, Threshold]) -> Threshold:
    """The best Dice's if it is there, else that of 5 % false positives in healthy volumes."""
    return thresholds[BEST_DICE if BEST_DICE in thresholds else LABEL_FREE]


def examine(module: BrainModule, volumes: Iterable[Volume], kinds: Sequence[Kind], what: str) -> list[Examined]:
    """Reconstruct volumes, with a progress bar."""
    return [module.examine(volume, kinds) for volume in track(list(volumes), what, transient=True)]


def maps_of(examined: Sequence[Examined], kind: Kind) -> list[Map]:
    """The maps of one kind."""
    return [each.maps[kind] for each in examined]


def intensity_maps(volumes: Iterable[Volume]) -> list[Map]:
    """Images as if they were residuals: what any model must beat where lesions are bright."""
    return [anomaly_map(volume.image, volume.mask) for volume in volumes]


def find_thresholds(
    lesion_maps: Sequence[Map], lesion_val: Sequence[Volume], healthy_maps: Sequence[Map], healthy_val: Sequence[Volume]
) -> Thresholds:
    """Thresholds from validation volumes, never from test volumes.

    Args:
        lesion_maps: Of `lesion_val`.
        lesion_val: Volumes with lesions; may be empty.
        healthy_maps: Of `healthy_val`.
        healthy_val: Healthy volumes; may be empty if the others are not.

    Raises:
        ValueError: Neither kind of volume is there.
    """
    found: Thresholds = {}
    marked = [
        (each, volume.seg) for each, volume in zip(lesion_maps, lesion_val, strict=True) if volume.seg is not None
    ]
    if any(seg.any() for _, seg in marked):
        found[BEST_DICE] = best_dice_bisection([each for each, _ in marked], [seg for _, seg in marked])
    if healthy_val:
        masks = [volume.mask for volume in healthy_val]
        for rate in FALSE_POSITIVE_RATES:
            found[f"fpr {100 * rate:g}"] = at_false_positive_rate(healthy_maps, masks, rate)
    if not found:
        raise ValueError("a threshold needs validation volumes: healthy ones, or ones with marked lesions")
    return found


def cell(
    trained: str,
    kind: str,
    thresholds: Thresholds,
    test_maps: Sequence[Map],
    test: Sequence[Volume],
    healthy_maps: Sequence[Map],
    healthy_val: Sequence[Volume],
) -> Cell:
    """Score one map; volumes without marked lesions are refused.

    Raises:
        ValueError: No test volume, or one without `seg`.
    """
    if not test:
        raise ValueError("there are no test volumes with lesions; for volumes without marked lesions use predict")
    unmarked = [volume.name for volume in test if volume.seg is None]
    if unmarked:
        raise ValueError(f"test volumes without a lesion mask: {', '.join(unmarked)}; give masks, or use predict")
    threshold = chosen(thresholds)
    healthy = score(healthy_maps, healthy_val, threshold).mean()["fpr"] if healthy_val else float("nan")
    label_free = thresholds.get(LABEL_FREE)
    return Cell(
        trained,
        kind,
        thresholds,
        score(test_maps, test, threshold),
        None if label_free is None else score(test_maps, test, label_free),
        healthy,
        slice_scores(test_maps, test),
    )


def errors(examined: Sequence[Examined], volumes: Sequence[Volume]) -> dict[str, float | None]:
    """How far reconstructions are from images, in lesions and in the rest of the brain: means over volumes.

    Returns:
        ``l1`` and ``dssim``, each ``_lesion`` and ``_normal``, of intensities as shown; and, if volumes have a
        counterfactual, ``l1_to_healthy``: in lesions, from the reconstruction to what is under the lesion.
    """
    lines = []
    for each, volume in zip(examined, volumes, strict=True):
        image, found = (
            torch.from_numpy(part).permute(2, 0, 1)[:, None] for part in (volume.image, each.reconstruction)
        )
        line = {}
        for name, kind in (("l1", "l1"), ("dssim", "ssim")):
            values = residual(kind, found, image)[:, 0].permute(1, 2, 0).numpy()  # type: ignore[arg-type]
            seg = np.zeros_like(volume.mask) if volume.seg is None else volume.seg
            line[f"{name}_lesion"] = _mean(values[seg])
            line[f"{name}_normal"] = _mean(values[volume.mask & ~seg])
        if volume.healthy is not None and volume.seg is not None:
            line["l1_to_healthy"] = _mean(np.abs(each.reconstruction - volume.healthy)[volume.seg])
        lines.append(line)
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: _or_none(_mean(np.array([line[name] for line in lines if name in line]))) for name in names}


def intensity_ratio(volumes: Sequence[Volume], is_inverted: bool) -> dict[str, float | None]:
    """Mean AIR of volumes, as they are and as the model sees them."""
    raw = [air(v.image, v.mask, v.seg) for v in volumes if v.seg is not None]
    seen = [air(np.where(v.mask, 1 - v.image, v.image), v.mask, v.seg) for v in volumes if v.seg is not None]
    return {
        "air": _or_none(_mean(np.array(raw))),
        "air_seen": _or_none(_mean(np.array(seen if is_inverted else raw))),
    }


def write_thresholds(path: Path, found: Mapping[str, Thresholds], about_data: Mapping[str, Any]) -> None:
    """Thresholds of each ``LOSS/MAP`` and the options of the data they were found on, as JSON."""
    plain = {name: {key: asdict(value) for key, value in each.items()} for name, each in found.items()}
    path.write_text(json.dumps({"data": about_data, "thresholds": plain}, indent=1), encoding="utf-8")


def read_thresholds(path: Path) -> tuple[dict[str, Thresholds], Any]:
    """What `write_thresholds` wrote: thresholds, and options of the data.

    Raises:
        ValueError: The file is not one of those.
    """
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        plain = whole["thresholds"]
        found = {name: {key: Threshold(**value) for key, value in each.items()} for name, each in plain.items()}
    except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no thresholds ({error!r}); delete it and run validate again") from error
    return found, whole.get("data")


def _mean(values: Any) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype=np.float64)) if known.size else float("nan")


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
