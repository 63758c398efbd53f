"""Tables and pages of trainings and tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from recipes._page import Part, write_page
from recipes._tables import Cells
from recipes.brain_mri.assess import Cell, Thresholds
from recipes.brain_mri.bootstrap import Interval, paired_bootstrap

Found = dict[str, Any]

SCORES_NOTE = (
    "Per cent, mean over test volumes with its 95 % bootstrap interval over them. Dice: at the threshold found on"
    " validation volumes, components of up to 7 voxels dropped. Label-free Dice: at the threshold of 5 % false"
    " positives in healthy validation volumes. AUPRC: exact, over all voxels of a volume, before any threshold."
    " AUROC: over the brain. Best Dice: an oracle, each volume at its own best threshold. FPR: share of normal brain"
    " voxels called. Slice AUROC: by the mean of a slice's map. The map 'intensity' is the image itself: no model."
)
PANEL_NOTE = (
    "Lesions are outlined in green, what is called in red. Each kind of map has one colour scale, from 0 to a fixed"
    " value, the same for every volume and every run; nothing is stretched to its own largest value."
)


def score_table(cells: Sequence[Cell]) -> Cells:
    """One line a map."""
    header = ["trained", "map", "AUPRC", "Dice", "label-free Dice", "best Dice", "AUROC", "FPR", "FPR healthy"]
    body = []
    for cell in cells:
        spans = cell.scores.interval()
        label_free = None if cell.label_free is None else cell.label_free.interval()["dice"].mean
        body.append(
            [
                cell.trained,
                cell.map,
                *(_span(spans[name]) for name in ("auprc", "dice")),
                _percent(label_free),
                *(_percent(spans[name].mean) for name in ("best_dice", "auroc", "fpr")),
                _percent(cell.healthy_fpr),
                _percent(cell.slices["slice_auroc"]),
            ]
        )
    return [*header, "slice AUROC"], body


def difference_table(cells: Sequence[Cell]) -> Cells:
    """What a change of the map, or of the training, does to each volume: mean differences with 95 % intervals."""
    header = ["change", "at", "AUPRC, points", "Dice, points", "best Dice, points"]
    by_name = {cell.name: cell for cell in cells}
    pairs = []
    for trained in dict.fromkeys(cell.trained for cell in cells):
        pairs.append(("map l1 to fq", f"trained {trained}", f"{trained}/l1", f"{trained}/fq"))
    for kind in dict.fromkeys(cell.map for cell in cells):
        pairs.append(("training l1 to fq", f"map {kind}", f"l1/{kind}", f"fq/{kind}"))
    body = []
    for change, at, before, after in pairs:
        if before in by_name and after in by_name:
            first, second = by_name[before].scores, by_name[after].scores
            found = [paired_bootstrap(getattr(second, n), getattr(first, n)) for n in ("auprc", "dice", "best_dice")]
            body.append([change, at, *(_signed(*each) for each in found)])
    return header, body


def threshold_table(found: Mapping[str, Thresholds]) -> Cells:
    """Every threshold with where it comes from."""
    body = [
        [*name.split("/"), key, f"{each.value:.4g}", each.origin]
        for name, thresholds in found.items()
        for key, each in thresholds.items()
    ]
    return ["trained", "map", "threshold", "value", "origin"], body


def error_table(found: Mapping[Any, Mapping[str, float | None]]) -> Cells:
    """How far reconstructions are from images, by training."""
    names = list(dict.fromkeys(name for line in found.values() for name in line))
    titles = [name.replace("_", ", ", 1).replace("_", " ") for name in names]
    body = [[trained, *("-" if (x := line.get(name)) is None else f"{x:.4f}" for name in names)]
            for trained, line in found.items()]  # fmt: skip
    return ["trained", *titles], body


def write_test(path: Path, found: Found, tables: Sequence[tuple[str, str, Cells]], pictures: Sequence[Figure]) -> None:
    """The page of a test.

    Args:
        path: Where.
        found: What ``metrics.json`` holds.
        tables: Heading, note and cells of each.
        pictures: Panel, dots and training curves.
    """
    panel, dots, curves = pictures
    parts: list[Part] = [("p", found["about"]), ("pre", found["command"]), ("figure", panel), ("note", PANEL_NOTE)]
    for number, (heading, note, cells) in enumerate(tables):
        parts += [("h2", heading), ("note", note), ("table", cells)]
        if number == 0:
            parts.append(("figure", dots))
    parts += [
        ("h2", "Training"),
        ("figure", curves),
        ("h2", "Settings"),
        ("pre", json.dumps(found["config"], indent=1)),
    ]
    write_page(path, "Anomalies in brain MRI", parts)


def _percent(value: float | None) -> str:
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _span(found: Interval) -> str:
    mean, low, high = map(_percent, found)
    return f"{mean} [{low}, {high}]"


def _signed(difference: float, low: float, high: float) -> str:
    if difference != difference:
        return "-"
    return f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"
