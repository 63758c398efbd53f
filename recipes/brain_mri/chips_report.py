"""Tables, picture and page of a study on chips."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from recipes._page import Part, write_page
from recipes._tables import Cells
from recipes.brain_mri.bootstrap import Difference, paired_bootstrap

if TYPE_CHECKING:
    from recipes.brain_mri.chips import Point, Row

    Results = Mapping[Point, Sequence[Row]]

SHOWN = {"auprc": "AUPRC", "dice_frozen": "Dice, frozen", "dice_tuned": "Dice, re-tuned"}
COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#b8860b")

NOTE = (
    "Per cent, mean and standard deviation over chips of the mean over test volumes. Frozen: at the threshold of the"
    " same network without variation. Re-tuned: at a threshold found on each chip. FPR: share of normal brain voxels"
    " called at the frozen threshold. Every threshold is the best Dice of the validation volumes."
)
PAIRED = (
    "Points, chip r against chip r, mean difference with its 95 % bootstrap interval over chips; * marks an interval"
    " without 0. Networks are one training each: what another training seed would change is not in the interval."
)


def score_table(results: Results) -> Cells:
    """One line a network, map and sigma."""
    header = ["training", "map", "sigma", *SHOWN.values(), "FPR, frozen"]
    body = [
        [point.net, point.map, f"{point.sigma:g}", *(_spread(rows, name) for name in (*SHOWN, "fpr_frozen"))]
        for point, rows in results.items()
    ]
    return header, body


def retuning_table(results: Results) -> Cells:
    """Dice at the chip's own threshold minus Dice at the frozen one."""
    body = []
    for point, rows in results.items():
        if point.sigma:
            gain = paired_bootstrap(_column(rows, "dice_tuned"), _column(rows, "dice_frozen"))
            body.append([point.net, point.map, f"{point.sigma:g}", _signed(gain)])
    return ["training", "map", "sigma", "Dice, re-tuned - frozen"], body


def training_table(results: Results, plain: str) -> Cells:
    """Networks trained under variation minus the plain one."""
    body = []
    for point, rows in results.items():
        if point.net != plain and point.sigma:
            before = results[point._replace(net=plain)]
            gains = (paired_bootstrap(_column(rows, name), _column(before, name)) for name in SHOWN)
            body.append([point.net, point.map, f"{point.sigma:g}", *map(_signed, gains)])
    return ["training", "map", "sigma", *SHOWN.values()], body


def against_sigma(results: Results) -> Figure:
    """Scores over sigma, one panel a score, one line a network and map; bands are one standard deviation of chips."""
    figure = Figure(figsize=(3.4 * len(SHOWN), 3.2), layout="constrained")
    lines = list(dict.fromkeys((point.net, point.map) for point in results))
    nets = list(dict.fromkeys(net for net, _ in lines))
    kinds = list(dict.fromkeys(kind for _, kind in lines))
    for ax, (name, title) in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN.items(), strict=True):
        for net, kind in lines:
            points = sorted(
                (p.sigma, _column(rows, name)) for p, rows in results.items() if (p.net, p.map) == (net, kind)
            )
            sigmas = [sigma for sigma, _ in points]
            mean, std = (np.array([100 * f(values) for _, values in points]) for f in (np.mean, np.std))
            colour, style = COLOURS[nets.index(net) % len(COLOURS)], ("-", "--", ":", "-.")[kinds.index(kind)]
            ax.plot(sigmas, mean, style, color=colour, marker=".", label=f"{net}, {kind} map")
            ax.fill_between(sigmas, mean - std, mean + std, color=colour, alpha=0.12, linewidth=0)
        ax.set_title(f"{title}, %")
        ax.set_xlabel("sigma / max|W|")
        ax.set_ylim(bottom=0)
        ax.grid(alpha=0.25)
    ax.legend(frameon=False, fontsize=7)
    return figure


def write(path: Path, found: Mapping[str, Any], tables: Sequence[tuple[str, str, Cells]], curves: Figure) -> None:
    """The page of a study."""
    parts: list[Part] = [("p", found["about"]), ("pre", found["command"]), ("figure", curves)]
    for heading, note, cells in tables:
        parts += [("h2", heading), ("note", note), ("table", cells)]
    parts += [("h2", "Settings"), ("pre", json.dumps(found["options"], indent=1))]
    write_page(path, "Anomalies in brain MRI on compute-in-memory chips", parts)


def _column(rows: Sequence[Row], name: str) -> list[float]:
    return [row[name] for row in rows]


def _spread(rows: Sequence[Row], name: str) -> str:
    values = 100 * np.array(_column(rows, name))
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")


def _signed(gain: Difference) -> str:
    mean, low, high = (100 * value for value in gain)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" + (" *" if gain.is_clear else "")
