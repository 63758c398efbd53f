"""The picture of a sweep: one vertical axis a parameter and one for the metric, a line a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim._plotting import figure_and_axes
from lightning_cim.sweep.one_run import Run
from lightning_cim.sweep.parameters import Parameter
from lightning_cim.sweep.sweep_file import SweepFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(sweep: SweepFile, runs: Sequence[Run], ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Draw the runs that succeeded.

    Args:
        sweep: The file.
        runs: Of it.
        ax: Draw here instead of on a new figure.
    """
    varied = [parameter for parameter in sweep.parameters if parameter.distribution != "constant"]
    shown = [run for run in runs if run.status == 0 and (sweep.metric is None or run.score(sweep.metric) is not None)]
    figure, ax = figure_and_axes(ax, figsize=(1.6 * (len(varied) + 2), 3.6))
    columns = [_column(ax, x, parameter, shown) for x, parameter in enumerate(varied)]
    names = [parameter.name for parameter in varied]
    colors = np.full(len(shown), 0.5)
    if sweep.metric is not None:
        scores = np.array([run.score(sweep.metric) for run in shown], dtype=float)
        colors = _scale(ax, len(varied), scores, log=False)
        columns.append(colors)
        names.append(sweep.metric)
    import matplotlib as mpl

    palette = mpl.colormaps["viridis"]
    for line, color in sorted(zip(zip(*columns, strict=True), colors, strict=True), key=lambda pair: pair[1]):
        ax.plot(range(len(names)), line, color=palette(0.95 * color), alpha=0.8, linewidth=1.2)
    ax.set(xlim=(-0.3, len(names) - 0.4), ylim=(-0.05, 1.05), yticks=[], title=f"{sweep.name}: {len(shown)} runs")
    ax.set_xticks(range(len(names)), names, rotation=15)
    for x in range(len(names)):
        ax.axvline(x, color="black", linewidth=0.8)
    for side in ("left", "right", "top", "bottom"):
        ax.spines[side].set_visible(False)
    return figure, ax


def _column(ax: Axes, x: int, parameter: Parameter, runs: Sequence[Run]) -> Any:
    values = [run.values[parameter.name] for run in runs]
    if parameter.values:
        at = np.linspace(0, 1, len(parameter.values)) if len(parameter.values) > 1 else np.array([0.5])
        for height, value in zip(at, parameter.values, strict=True):
            _label(ax, x, height, str(value))
        return [at[parameter.values.index(value)] for value in values]
    return _scale(ax, x, np.array(values, dtype=float), parameter.distribution == "log_uniform_values")


def _scale(ax: Axes, x: int, values: Any, log: bool) -> Any:
    if not len(values):
        return values
    low, high = values.min(), values.max()
    for height, value in ((0.0, low), (1.0, high)) if high > low else ((0.5, low),):
        _label(ax, x, height, f"{value:.3g}")
    if high == low:
        return np.full(len(values), 0.5)
    place = np.log if log else np.asarray
    return (place(values) - place(low)) / (place(high) - place(low))


def _label(ax: Axes, x: int, height: float, text: str) -> None:
    ax.text(x + 0.04, height, text, fontsize=8, va="center", bbox={"color": "white", "alpha": 0.7, "pad": 0.5})
