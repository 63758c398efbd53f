"""Pictures of latents, Fourier shell correlations, maps and flexibility."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from recipes.cryo_em.evaluate import Decoded, Evaluation
from recipes.cryo_em.fsc import HALF_MAPS, MAP_TO_TRUTH, ShellCorrelation
from recipes.cryo_em.half_maps import HalfMapCorrelation

COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93", "#17a2b8")
STATES = "viridis"
"""Colours of states, and of true labels."""
CHANGE = "RdBu_r"
"""Colours of a difference from the mean: red gained density, blue lost it."""


def latents(found: Evaluation) -> Figure:
    """Principal components of all images, and the first against the true label or, without labels, its histogram."""
    scores, explained = found.components.scores.numpy(), found.components.explained.tolist()
    figure = Figure(figsize=(9.6, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    second = scores[:, 1] if scores.shape[1] > 1 else np.zeros(len(scores))
    size = float(np.clip(2e4 / len(scores), 1.5, 14))
    if found.labels is not None:
        dots = left.scatter(scores[:, 0], second, c=found.labels.numpy(), s=size, cmap=STATES, alpha=0.6, linewidths=0)
        figure.colorbar(mpl.cm.ScalarMappable(dots.norm, STATES), ax=left, label="true conformation")
    else:
        hexes = left.hexbin(scores[:, 0], second, gridsize=45, cmap="Blues", mincnt=1, linewidths=0)
        figure.colorbar(hexes, ax=left, label="images")
    axes = found.components.axes
    for states, line, name in ((found.path.states, "o-", "traversal"), (found.clusters.states, "x", "clusters")):
        at = ((states.latents.flatten(1).double() - found.components.mean) @ axes.T).numpy()
        height = at[:, 1] if at.shape[1] > 1 else np.zeros(len(at))
        colour = "#111111" if name == "traversal" else COLOURS[1]
        left.plot(at[:, 0], height, line, color=colour, markersize=5, linewidth=1, label=name)
    left.legend(frameon=False, loc="best")
    left.set_xlabel(f"PC 1, {100 * explained[0]:.0f} % of the variance")
    left.set_ylabel(f"PC 2, {100 * explained[1]:.0f} %" if len(explained) > 1 else "")
    left.set_title("latents of all images")
    if found.labels is not None:
        right.scatter(found.labels.numpy(), scores[:, 0], s=size, color=COLOURS[0], alpha=0.4, linewidths=0)
        right.set_xlabel("true conformation")
        right.set_ylabel("PC 1")
        right.set_title(f"rank correlation {found.scores['spearman']:.3f}" if "spearman" in found.scores else "")
    else:
        right.hist(scores[:, 0], bins=60, color=COLOURS[0])
        right.set_xlabel("PC 1")
        right.set_ylabel("images")
    return figure


def fsc_of_states(curves: ShellCorrelation, beside: Mapping[str, ShellCorrelation] | None = None) -> Figure:
    """FSC of every state against the truth.

    Args:
        curves: (K, S).
        beside: Curves of others, whose mean over states is drawn, such as the homogeneous baseline.
    """
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    ax = figure.subplots()
    count = len(curves.correlation)
    palette = mpl.colormaps[STATES](np.linspace(0, 1, count))
    frequency = curves.frequency.numpy()
    for index, curve in enumerate(curves.correlation.numpy()):
        ax.plot(frequency, curve, color=palette[index], linewidth=1, label="each state" if not index else None)
    ax.plot(frequency, curves.correlation.mean(0).numpy(), color="#111111", linewidth=2.2, label="mean of states")
    for number, (name, other) in enumerate((beside or {}).items()):
        mean = other.correlation.reshape(-1, len(other.frequency)).mean(0)
        ax.plot(
            other.frequency.numpy(), mean.numpy(), "--", color=COLOURS[1 + number], linewidth=1.8, label=f"mean, {name}"
        )
    _finish_fsc(ax, curves, MAP_TO_TRUTH)
    ax.set_title("maps of states against the truth")
    bar = figure.colorbar(mpl.cm.ScalarMappable(cmap=STATES), ax=ax, label="state, from first to last", pad=0.02)
    bar.set_ticks([])
    return figure


def fsc_of_pair(curve: ShellCorrelation, threshold: float = MAP_TO_TRUTH) -> Figure:
    """FSC of two maps."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    ax = figure.subplots()
    ax.plot(curve.frequency.numpy(), curve.correlation.numpy(), color=COLOURS[0], label="FSC")
    _finish_fsc(ax, curve, threshold)
    ax.set_title(f"{float(curve.resolution(threshold)):.2f} Å at {threshold:g}, first crossing")
    return figure


def fsc_of_half_maps(found: HalfMapCorrelation) -> Figure:
    """FSC of half maps: as they are, masked, with random phases, and corrected."""
    figure = Figure(figsize=(6.0, 4.2), layout="constrained")
    ax = figure.subplots()
    for name, curve, style, colour in (
        ("no mask", found.unmasked, "-", COLOURS[0]),
        ("masked", found.masked, "-", COLOURS[2]),
        (f"masked, random phases from shell {found.start}", found.randomised, ":", COLOURS[1]),
        ("corrected", found.corrected, "-", "#111111"),
    ):
        ax.plot(curve.frequency.numpy(), curve.correlation.numpy(), style, color=colour, label=name, linewidth=1.6)
    _finish_fsc(ax, found.masked, HALF_MAPS)
    ax.set_title(f"half maps: {found.resolution():.2f} Å at {HALF_MAPS}")
    return figure


def _finish_fsc(ax: Axes, curves: ShellCorrelation, threshold: float) -> None:
    nyquist = 0.5 / curves.pixel_size
    ax.axhline(threshold, color="#777777", linewidth=0.8, linestyle="--")
    ax.text(0.004 * nyquist, threshold + 0.01, f"{threshold:g}", color="#777777", fontsize=8)
    ax.axhline(0, color="#777777", linewidth=0.5)
    ax.set_xlim(0, nyquist)
    ax.set_ylim(min(-0.05, float(curves.correlation.min()) - 0.03), 1.02)
    ticks = np.linspace(0, nyquist, 6)
    ax.set_xticks(ticks, ["∞", *(f"{1 / tick:.1f}" for tick in ticks[1:])])
    ax.set_xlabel("resolution, Å")
    ax.set_ylabel("Fourier shell correlation")
    ax.grid(alpha=0.25)
    ax.legend(frameon=True, framealpha=0.9, edgecolor="none", fontsize=8, loc="best")


def slices(shown: Decoded, support: Tensor | None = None, rows: int = 3) -> Figure:
    """A section through some states and how each differs from the mean of all, beside the truth where it is known.

    The section is the one whose density moves most. Where the truth is known it is scaled to the maps. All maps have
    the same greys, and all changes the same colours, white for none.

    Args:
        shown: Maps of states.
        support: Bool (D, D, D); the picture is cut to what it holds.
        rows: Of states, from first to last.
    """
    known = shown.truth is not None
    moved = _changes(shown.truth if shown.truth is not None else shown.volumes)
    axis, index = _most_moving(moved)
    ours, ours_moved = shown.volumes, _changes(shown.volumes)
    columns: list[tuple[str, Tensor, bool]] = [("map", ours, False), ("its change", ours_moved, True)]
    if shown.truth is not None:
        scale = float((ours * shown.truth).sum() / shown.truth.square().sum())
        columns += [("truth", shown.truth * scale, False), ("its change", moved * scale, True)]
    chosen = np.linspace(0, len(ours) - 1, min(rows, len(ours))).round().astype(int)
    window = _window(support if support is not None else torch.ones(ours.shape[1:], dtype=torch.bool), axis)
    figure = Figure(figsize=(0.6 + 2.25 * len(columns), 0.7 + 2.2 * len(chosen)), layout="constrained")
    axes = figure.subplots(len(chosen), len(columns), squeeze=False)
    top = _top(torch.cat([part for _, part, change in columns if not change]), axis, index)
    widest = _top(torch.cat([part for _, part, change in columns if change]).abs(), axis, index)
    for row, state in enumerate(chosen):
        for column, (name, maps, change) in enumerate(columns):
            ax = axes[row, column]
            picture = maps[state].select(axis, index)[window].numpy()
            limits = {"cmap": CHANGE, "vmin": -widest, "vmax": widest} if change else {"cmap": "gray_r", "vmin": 0}
            ax.imshow(picture, origin="lower", interpolation="bilinear", **({"vmax": top} | limits))
            bare(ax)
            if not row:
                ax.set_title(name)
            if not column:
                ax.set_ylabel(_state_name(shown, int(state), known))
    plane = ("xy", "xz", "yz")[axis]
    figure.suptitle(f"{plane} section {index} of {ours.shape[-1]}; red gained, blue lost", fontsize=10)
    return figure


def flexibility(
    maps: Mapping[str, Tensor], support: Tensor, scores: Mapping[str, Mapping[str, float | None]] | None = None
) -> Figure:
    """Where density moves: maximum along each axis of maps (D, D, D), one row a map.

    Args:
        maps: By name: ``true``, ``density``, ``attention``.
        support: Bool (D, D, D); pictures are cut to what it holds.
        scores: Of each but the true one.
    """
    titles = {
        "true": "true spread of density",
        "density": "spread of decoded density",
        "attention": "spread of attention",
    }
    names = [name for name in titles if name in maps]
    figure = Figure(figsize=(2.3 * 3 + 0.4, 0.3 + 2.4 * len(names)), layout="constrained")
    axes = figure.subplots(len(names), 3, squeeze=False)
    for row, name in zip(axes, names, strict=True):
        found = (scores or {}).get(name, {})
        said = [f"{text} {value:.2f}" for key, text in _WORDS.items() if (value := found.get(key)) is not None]
        top = float(maps[name].max()) or 1.0
        for axis, ax in enumerate(row):
            picture = maps[name].amax(axis)[_window(support, axis)].numpy()
            ax.imshow(picture, origin="lower", cmap="inferno", vmin=0, vmax=top, interpolation="bilinear")
            bare(ax)
            if ax is row[0]:
                ax.set_ylabel("\n".join([titles[name], *said]))
            if name == names[0]:
                ax.set_xlabel("along " + "zyx"[axis])
                ax.xaxis.set_label_position("top")
    return figure


_WORDS = {"auroc": "AUROC of mobile voxels", "spearman": "rank correlation"}


def sections(volume: Tensor) -> list[NDArray[np.float32]]:
    """Sums of a map (D, D, D) along z, y and x."""
    return [volume.sum(axis).numpy() for axis in range(3)]


def _changes(volumes: Tensor) -> Tensor:
    return volumes - volumes.mean(0)


def _most_moving(moved: Tensor) -> tuple[int, int]:
    """Axis and index of the section with the largest mean square change."""
    power = moved.square().mean(0)
    profiles = [power.sum(dim=[other for other in range(3) if other != axis]) for axis in range(3)]
    axis = max(range(3), key=lambda one: float(profiles[one].max()))
    return axis, int(profiles[axis].argmax())


def _window(support: Tensor, axis: int) -> tuple[slice, slice]:
    """Rows and columns of a section that hold the support, with a margin of two."""
    flat = support.cpu().any(axis)
    ends = []
    for other in (1, 0):
        inside = flat.any(other).nonzero()[:, 0]
        ends.append(slice(max(int(inside[0]) - 2, 0), int(inside[-1]) + 3))
    return ends[0], ends[1]


def _top(maps: Tensor, axis: int, index: int) -> float:
    return float(np.quantile(maps.select(axis + 1, index).numpy(), 0.998)) or 1.0


def _state_name(shown: Decoded, state: int, known: bool) -> str:
    where = float(shown.states.positions[state])
    return f"conformation {where:.2f}" if known else f"state {state + 1}, PC 1 {where:.2f}"


def bare(ax: Axes) -> None:
    """Take ticks and frame away."""
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(False)


def against_sigma(rows: Sequence[Mapping[str, float | str]], metrics: Sequence[tuple[str, str]]) -> Figure:
    """Scores over chips against sigma, one panel a part and score: mean, and band from the 5th to the 95th percentile.

    Args:
        rows: As of `chips.row_of`.
        metrics: Name and title of each score.
    """
    nets = list(dict.fromkeys(str(row["net"]) for row in rows))
    parts = list(dict.fromkeys(str(row["part"]) for row in rows))
    figure = Figure(figsize=(0.8 + 2.7 * len(parts), 0.7 + 2.4 * len(metrics)), layout="constrained")
    axes = figure.subplots(len(metrics), len(parts), squeeze=False, sharex=True, sharey="row")
    for line, (metric, title) in zip(axes, metrics, strict=True):
        for ax, part in zip(line, parts, strict=True):
            for net, colour in zip(nets, COLOURS, strict=False):
                of = [row for row in rows if (row["net"], row["part"], row["metric"]) == (net, part, metric)]
                x, mean, low, high = (
                    np.array([float(row[key]) for row in of]) for key in ("sigma", "mean", "p5", "p95")
                )
                ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
                ax.plot(x, mean, "o-", color=colour, markersize=3.5, label=net)
            ax.grid(alpha=0.25)
            if line is axes[0]:
                ax.set_title(part)
            if line is axes[-1]:
                ax.set_xlabel("sigma, of max|W|")
        line[0].set_ylabel(title)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
    return figure
