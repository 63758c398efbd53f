"""Pictures of one measured device."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lightning_cim._plotting import figure_and_axes
from lightning_cim.variation.conductance import Device

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_error(device: Device, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Sigma, and the mean error where there is one, against conductance, with measured levels and range of weights."""
    figure, ax = figure_and_axes(ax)
    grid = device.grid(401)
    ax.plot(grid.numpy(), device.sigma(grid).numpy(), color="#1f4e79", label="std")
    if device.shift is not None:
        ax.plot(grid.numpy(), device.shift(grid).numpy(), color="#c0392b", linestyle="--", label="mean error")
    if device.measured:
        ax.plot(*zip(*((level.target, level.std) for level in device.measured), strict=True), "o", color="#1f4e79")
    ax.axvspan(device.g_min, device.g_max, color="#9db4c8", alpha=0.2, label="range of weights")
    ax.legend(fontsize="small")
    return _labelled(device, figure, ax, "error of one device")


def plot_residuals(device: Device, ax: Axes | None = None) -> tuple[Figure, Axes]:
    """Measured std minus fitted sigma at each level, with twice its standard error where that is known.

    Raises:
        ValueError: The levels that were measured are not known.
    """
    if not device.measured:
        raise ValueError(f"{device.name}: the measured levels are not known, so there are no residuals to plot")
    figure, ax = figure_and_axes(ax)
    errors = [level.std / math.sqrt(2 * level.readings - 2) if level.readings > 1 else 0 for level in device.measured]
    targets = [level.target for level in device.measured]
    ax.errorbar(targets, device.residuals, [2 * error for error in errors], fmt="o", color="#1f4e79", capsize=2)
    ax.axhline(0.0, color="#9db4c8")
    return _labelled(device, figure, ax, "measured std - fitted sigma")


def _labelled(device: Device, figure: Figure, ax: Axes, what: str) -> tuple[Figure, Axes]:
    ax.set_xlabel(f"target {'current' if device.unit.endswith('A') else 'conductance'} / {device.unit}")
    ax.set_ylabel(f"{what} / {device.unit}")
    ax.set_title(device.name)
    return figure, ax
