"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recipes.image_classification.methods import METHODS

Found = dict[str, Any]


def curves(tables: Mapping[float, Sequence[Found]]) -> Figure:
    """Accuracy against the sigma of deployment, one panel a training sigma, with bands over training seeds."""
    columns = min(2, len(tables))
    lines = -(-len(tables) // columns)
    figure = Figure(figsize=(1.5 + 5 * columns, 0.5 + 3.6 * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
    for ax, (sigma, rows) in zip(axes, tables.items(), strict=False):
        for row in rows:
            _curve(ax, row)
        ax.axvline(sigma, color="#999999", linewidth=0.8, linestyle=":")
        ax.annotate(
            "trained for",
            (sigma, 1.0),
            (3, -3),
            ("data", "axes fraction"),
            "offset points",
            va="top",
            color="#777777",
            fontsize=8,
        )
        ax.set_title(f"trained for sigma = {sigma:g}")
        ax.set_xlabel("sigma of the chips")
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_ylim(0, 102)
        ax.grid(alpha=0.25)
    for ax in axes[len(tables) :]:
        ax.remove()
    for ax in axes[: len(tables) : columns]:
        ax.set_ylabel("accuracy over chips, mean %")
    handles = {}
    for ax in axes[: len(tables)]:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(handles.values(), handles.keys(), loc="outside right upper", fontsize=9, frameon=False)
    return figure


def _curve(ax: Axes, row: Found) -> None:
    method = METHODS[row["method"]]
    if not row["curve"][0]:  # a network for one chip is measured at its own sigma only
        mean, spread = 100 * np.mean(row["mean"]), 100 * np.std(row["mean"])
        ax.errorbar([row["sigma"]], [mean], [spread], fmt="D", color=method.colour, label=method.label, capsize=3)
        return
    sigmas = [point["sigma"] for point in row["curve"][0]]
    means = 100 * np.array([[point["mean"] for point in curve] for curve in row["curve"]])
    ax.plot(sigmas, means.mean(0), "o-", markersize=3, linewidth=1.4, color=method.colour, label=method.label)
    if len(means) > 1:
        spread = means.std(0, ddof=1)
        ax.fill_between(sigmas, means.mean(0) - spread, means.mean(0) + spread, color=method.colour, alpha=0.13, lw=0)


def chips(rows: Sequence[Found]) -> Figure:
    """How accuracy is spread over chips: one line of dots a method, all seeds, with its 1st percentile."""
    figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(rows)), layout="constrained")
    ax = figure.subplots()
    for place, row in enumerate(reversed(rows)):
        method = METHODS[row["method"]]
        sample = 100 * np.concatenate(row["accuracy"])
        # Dots are spread by a fixed sequence, so that the picture is the same every time.
        height = place + 0.62 * (np.arange(sample.size) * 0.618 % 1 - 0.5)
        ax.scatter(sample, height, s=5, alpha=min(0.8, 30 / sample.size**0.7), color=method.colour, linewidths=0)
        ax.plot([sample.mean()] * 2, [place - 0.36, place + 0.36], color="#222222", linewidth=1.6)
        if row["chips"] >= 100:
            ax.plot([100 * np.mean(row["kpp"])] * 2, [place - 0.36, place + 0.36], color="#c0392b", linewidth=1.6)
    ax.set_yticks(range(len(rows)), [METHODS[row["method"]].label for row in reversed(rows)])
    ax.set_xlabel("accuracy of a chip, %   (black: mean, red: KPP 1 %)")
    ax.set_xlim(right=100.5)
    ax.grid(axis="x", alpha=0.25)
    return figure
