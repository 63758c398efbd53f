"""Figures of a study."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lightning_cim.codesign import SearchResult


def curves(results: dict[str, list[SearchResult]]) -> Figure:
    """Best reward so far of every arm: median and quartiles over seeds."""
    figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
    low = np.inf
    for arm, found in results.items():
        best = np.array([result.best_so_far for result in found])
        first, middle, third = np.quantile(best, [0.25, 0.5, 0.75], axis=0)
        episodes = np.arange(1, best.shape[1] + 1)
        (line,) = axes.plot(episodes, middle, label=f"{arm} ({len(found)})", lw=1.5, drawstyle="steps-post")
        if len(found) > 1:
            axes.fill_between(episodes, first, third, color=line.get_color(), alpha=0.15, step="post", lw=0)
        low = min(low, *middle[middle > -1]) if (middle > -1).any() else low
    axes.set(xlabel="episode", ylabel="best reward so far", xscale="log")
    if np.isfinite(low):
        axes.set_ylim(bottom=low - 0.02)
    axes.legend(fontsize="small", title="optimizer (seeds)", title_fontsize="small")
    return figure


def pareto(result: SearchResult) -> Figure:
    """Accuracy against energy and area of all designs that were found valid."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    result.plot_pareto("energy_pj", left)
    result.plot_pareto("area_mm2", right)
    right.set_ylabel("")
    return figure
