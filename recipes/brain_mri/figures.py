"""Pictures of volumes, maps, scores and trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recipes.brain_mri.assess import Cell
from recipes.brain_mri.module import Examined
from recipes.brain_mri.postprocess import Map, Mask
from recipes.brain_mri.residuals import Kind
from recipes.brain_mri.volume import Volume

SCALE: dict[Kind, float] = {"l1": 0.3, "l2": 0.09, "ssim": 0.5, "fq": 0.4}
"""Top of the colour scale of each map, in every picture of every run: a healthy brain stays dark.

A map filtered by a median seldom reaches what a residual can be at most; what is above is drawn as the top.
"""
COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93", "#17a2b8", "#7f7f7f", "#d35f9a")
_TRUTH, _CALLED = "#30d158", "#ff375f"
_SIDE = 1.9


class Shown(NamedTuple):
    """What a line of a panel shows.

    Attributes:
        volume: The volume.
        examined: Its reconstruction and maps.
        called: The binary map.
    """

    volume: Volume
    examined: Examined
    called: Mask


def panel(lines: Sequence[Shown], kinds: Sequence[Kind]) -> Figure:
    """One slice of each volume: image, reconstruction, maps, and what is called; lesions outlined in green.

    The slice is the one with most lesion, or, where none is marked, with most in its first map. Anterior is up; the
    left of a picture is the patient's left.

    Args:
        lines: At least one.
        kinds: Which maps, each at its fixed scale `SCALE`.
    """
    titles = ["image", "reconstruction", *(f"{kind} map" for kind in kinds), "called"]
    figure = Figure(figsize=(_SIDE * len(titles) + 0.4, _SIDE * len(lines) + 0.9), layout="constrained")
    axes = figure.subplots(len(lines), len(titles), squeeze=False)
    drawn: dict[Kind, Any] = {}
    for row, (volume, examined, called) in zip(axes, lines, strict=True):
        at = _slice_to_show(volume, examined.maps[kinds[0]])
        for ax, picture in zip(row, (volume.image, examined.reconstruction), strict=False):
            _grey(ax, picture[..., at])
        for ax, kind in zip(row[2:], kinds, strict=False):
            drawn[kind] = ax.imshow(
                examined.maps[kind][..., at].T, origin="lower", cmap="inferno", vmin=0, vmax=SCALE[kind]
            )
        _grey(row[-1], volume.image[..., at])
        _outline(row[-1], called[..., at], _CALLED)
        if volume.seg is not None:
            for ax in row:
                _outline(ax, volume.seg[..., at], _TRUTH)
        row[0].set_ylabel(f"{volume.name}\nslice {at}", fontsize=7)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    for column, kind in enumerate(kinds, 2):
        figure.colorbar(drawn[kind], ax=axes[:, column], location="bottom", extend="max", shrink=0.85, pad=0.02)
    return figure


def training_curves(histories: Mapping[Kind, Sequence[Mapping[str, float]]]) -> Figure:
    """Loss over epochs, and l1 and DSSIM of healthy validation volumes at test time, one line a training."""
    shown = {
        "train/loss": "training loss",
        "val/loss": "its loss on healthy validation",
        "val/l1": "l1 at test time, healthy",
        "val/ssim": "DSSIM at test time, healthy",
    }
    figure = Figure(figsize=(3.1 * len(shown), 2.7), layout="constrained")
    for ax, (name, title) in zip(figure.subplots(1, len(shown)), shown.items(), strict=True):
        for colour, (loss, rows) in zip(COLOURS, histories.items(), strict=False):
            ax.plot([row["epoch"] for row in rows], [row[name] for row in rows], color=colour, label=f"trained: {loss}")
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.set_yscale("log")
        ax.grid(alpha=0.25, which="both")
    ax.legend(frameon=False)
    return figure


def score_dots(cells: Sequence[Cell]) -> Figure:
    """Average precision and Dice of every test volume, means with 95 % intervals."""
    shown = (("auprc", "average precision"), ("dice", "Dice at the validation threshold"))
    figure = Figure(figsize=(9.0, 0.8 + 0.42 * len(cells)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (name, title) in zip(axes, shown, strict=True):
        for at, cell in enumerate(cells):
            values, (mean, low, high) = getattr(cell.scores, name), cell.scores.interval()[name]
            colour = COLOURS[at % len(COLOURS)]
            ax.plot(values, np.full(len(values), at), ".", color=colour, alpha=0.45, markersize=5)
            ax.plot([low, high], [at, at], color=colour, linewidth=2)
            ax.plot(mean, at, "D", color=colour, markersize=5)
        ax.set_xlim(-0.02, 1.02)
        ax.set_title(title)
        ax.grid(alpha=0.25, axis="x")
    axes[0].set_yticks(range(len(cells)), [f"trained {cell.trained}, map {cell.map}" for cell in cells])
    axes[0].invert_yaxis()
    return figure


def _slice_to_show(volume: Volume, found: Map) -> int:
    has_lesion = volume.seg is not None and volume.seg.any()
    return int((volume.seg if has_lesion else found).sum(axis=(0, 1)).argmax())  # type: ignore[union-attr]


def _grey(ax: Axes, picture: Map) -> None:
    ax.imshow(picture.T, origin="lower", cmap="gray", vmin=0, vmax=1)


def _outline(ax: Axes, region: Mask, colour: str) -> None:
    if region.any():
        ax.contour(region.T.astype(float), [0.5], colors=[colour], linewidths=0.9)
