"""Pictures of fits, files and chips."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

import lightning_cim as cim
from recipes.gaussian_image.chips import METRIC, Point

COLOURS = ("#1f4e79", "#c0392b", "#2e8b57", "#b8860b", "#6a4c93", "#17a2b8", "#7f7f7f", "#d35f9a")
LONGEST_SIDE = 1024
"""Pixels along a side of what a picture shows; larger images are averaged down."""


Curves = Mapping[str, Sequence[tuple[float, float]]]
"""By method: pairs of x, above 0, and PSNR in dB."""


def overview(pixels: Tensor, picture: Tensor, seeds: Tensor, caption: str = "decoded") -> Figure:
    """Original, decoded picture, error, and where the seeds lie.

    The error is the mean over colours of the absolute difference, in 1/255; its scale ends at the 99.5th percentile.

    Args:
        pixels: The original, (H, W, 3) in [0, 1].
        picture: (H, W, 3), clamped here.
        seeds: (N, 2), x and y in pixels.
        caption: Title of the decoded picture.
    """
    height, width = pixels.shape[:2]
    every = max(1, math.ceil(max(height, width) / LONGEST_SIDE))
    original, shown = (_reduced(part.clamp(0, 1), every) for part in (pixels, picture))
    error = 255 * _reduced((pixels - picture.clamp(0, 1)).abs(), every).mean(2)
    side = 4.2
    panel = (side, side * height / width) if width >= height else (side * width / height, side)
    figure = Figure(figsize=(2 * panel[0] + 1.0, 2 * panel[1] + 0.8), layout="constrained")
    axes = figure.subplots(2, 2)
    extent = (0.0, float(width), float(height), 0.0)
    axes[0, 0].imshow(original, extent=extent)
    axes[0, 0].set_title("original")
    axes[0, 1].imshow(shown, extent=extent)
    axes[0, 1].set_title(caption)
    image = axes[1, 0].imshow(
        error, extent=extent, cmap="inferno", vmin=0, vmax=max(1.0, float(np.percentile(error, 99.5)))
    )
    axes[1, 0].set_title("absolute error, mean over colours")
    figure.colorbar(image, ax=axes[1, 0], label="1/255", extend="max", fraction=0.046, pad=0.02)
    axes[1, 1].imshow(original * 0.45 + 0.5, extent=extent)
    # Dots cover about a tenth of the picture at most, however many seeds there are.
    area = min(6.0, 0.1 * panel[0] * panel[1] * 72**2 / max(len(seeds), 1))
    axes[1, 1].scatter(*seeds.cpu().numpy().T, s=area, color=COLOURS[1], linewidths=0)
    axes[1, 1].set_title(f"{len(seeds)} seeds")
    for ax in axes.flat:
        ax.set_xlim(0, width)
        ax.set_ylim(height, 0)
        ax.set_xticks([])
        ax.set_yticks([])
    return figure


def rate_distortion(images: Mapping[str, Curves], dashed: Sequence[str] = ()) -> Figure:
    """PSNR against real bits per pixel, one panel an image.

    Args:
        images: By image.
        dashed: Methods drawn with dashes, such as the classical codecs.
    """
    return _panels(images, "bits per pixel of the whole file", dashed)


def against_time(images: Mapping[str, Curves]) -> Figure:
    """PSNR against the CPU time of fitting, one panel an image."""
    return _panels(images, "CPU seconds of the fit", ())


def _panels(images: Mapping[str, Curves], label: str, dashed: Sequence[str]) -> Figure:
    """One panel an image, x logarithmic, one legend for all."""
    methods = list(dict.fromkeys(name for curves in images.values() for name in curves))
    columns = min(3, len(images))
    lines = -(-len(images) // columns)
    wide, high = (5.6, 4.2) if columns == 1 else (3.9, 3.5)
    figure = Figure(figsize=(2.2 + wide * columns, 0.4 + high * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    handles = {}
    for ax, (image, curves) in zip(axes, images.items(), strict=False):
        for name, points in curves.items():
            x, psnr = zip(*sorted(points), strict=True)
            line = {"linestyle": "--", "linewidth": 1.0, "marker": "."} if name in dashed else {"marker": "o"}
            drawn = ax.plot(x, psnr, color=_colour(methods, name), markersize=5, label=name, **line)[0]
            handles.setdefault(name, drawn)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter(_sparse)
        ax.set_title(image)
        ax.set_xlabel(label)
        ax.grid(alpha=0.25, which="both")
    for ax in axes[len(images) :]:
        ax.remove()
    for ax in axes[: len(images) : columns]:
        ax.set_ylabel("PSNR, dB")
    ordered = {name: handles[name] for name in methods}
    figure.legend(ordered.values(), ordered.keys(), loc="outside right upper", frameon=False)
    return figure


def against_sigma(results: Mapping[Point, cim.ChipResult]) -> Figure:
    """PSNR over chips against sigma: mean, band from the 5th to the 95th percentile, worst chip; one panel a part."""
    nets = list(dict.fromkeys(point.net for point in results))
    parts = list(dict.fromkeys(point.part for point in results))
    figure = Figure(figsize=(0.6 + 3.2 * len(parts), 3.9), layout="constrained")
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)[0]
    for ax, part in zip(axes, parts, strict=True):
        for net in nets:
            _band(ax, net, _samples(results, net, part), _colour(nets, net))
        ax.set_title(part)
        relative = "max|W|" if "network" in part else "the attribute's std"
        ax.set_xlabel(f"sigma, of {relative}")
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("PSNR of a chip, dB")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if len(parts) < 3 else 4, frameon=False)
    return figure


def _band(ax: Axes, net: str, samples: Mapping[float, NDArray[np.float64]], colour: str) -> None:
    sigmas = sorted(samples)
    means, worst = ([float(of(samples[sigma])) for sigma in sigmas] for of in (np.mean, np.min))
    low, high = ([float(np.percentile(samples[sigma], k)) for sigma in sigmas] for k in (5, 95))
    ax.fill_between(sigmas, low, high, color=colour, alpha=0.18, linewidth=0)
    ax.plot(sigmas, means, "o-", color=colour, markersize=3.5, label=f"{net}: mean, 5 to 95 %")
    ax.plot(sigmas, worst, ":", color=colour, linewidth=1, label=f"{net}: worst chip")


def _samples(results: Mapping[Point, cim.ChipResult], net: str, part: str) -> dict[float, NDArray[np.float64]]:
    return {at.sigma: found.of(METRIC) for at, found in results.items() if (at.net, at.part) == (net, part)}


def _reduced(pixels: Tensor, every: int) -> NDArray[np.float32]:
    planes = pixels.float().cpu().permute(2, 0, 1)
    return F.avg_pool2d(planes, every, ceil_mode=True).permute(1, 2, 0).numpy()


def _colour(names: Sequence[str], name: str) -> str:
    return COLOURS[names.index(name) % len(COLOURS)]


def _sparse(value: float, _: object) -> str:
    """Labels of a logarithmic axis between powers of ten: 0.2, 0.5, 2, 5, ..."""
    lead = value / 10 ** math.floor(math.log10(value) + 1e-9)
    return f"{value:g}" if round(lead, 6) in (2.0, 5.0) else ""
