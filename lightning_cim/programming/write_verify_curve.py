"""What write-verify loops leave, and what they cost."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_cim._plotting import figure_and_axes
from lightning_cim._tables import aligned, csv_line
from lightning_cim.programming.write_verify import WriteVerify, unit_factor
from lightning_cim.variation.base import Variation, max_abs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PREFIX = "# lightning_cim write-verify "
PERCENTILES = (50, 90, 99)
SETTINGS = tuple(item.name for item in fields(WriteVerify))
PUBLISHED_RAW, PUBLISHED_RESIDUAL, PUBLISHED_WRITES = 0.1, 0.03, 10.0
"""SWIM's std before and after write-verify (its code), and its cycles a weight (recalled, as in published_cycles)."""
PUBLISHED_LABEL = "published (SWIM)"
_BINS = 41
_STATISTICS = ("mean", "std", "std_error", "beyond", "given_up", "writes", *(f"writes_p{k}" for k in PERCENTILES))


@dataclass(frozen=True)
class WriteVerifyPoint:
    """What one loop leaves and costs. Residuals are in the units of the raw variation's sigma.

    Attributes:
        loop: The loop.
        mean: Mean residual.
        std: Standard deviation of the residual (divisor n).
        std_error: Standard error of ``std``, from the fourth moment; weights count as independent.
        beyond: Share of weights whose residual is beyond the tolerance.
        given_up: Share of weights that were written as often as ``max_cycles`` allows.
        writes: Mean write cycles a weight, its first write included.
        percentiles: The 50th, 90th and 99th percentile of the write cycles over weights.
        counts: How many residuals fall between neighbours of :attr:`WriteVerifyCurve.edges`; those beyond the last edge
            count in the last bin.
    """

    loop: WriteVerify
    mean: float
    std: float
    std_error: float
    beyond: float
    given_up: float
    writes: float
    percentiles: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def statistics(self) -> tuple[float, ...]:
        """All numbers but the histogram, in the order of the CSV's columns."""
        head = (self.mean, self.std, self.std_error, self.beyond, self.given_up, self.writes)
        return head + self.percentiles


@dataclass(frozen=True, eq=False)
class WriteVerifyCurve:
    """Residual against write cycles, for several write-verify loops. Printing it prints :meth:`table`.

    Attributes:
        points: One a loop, in the order given.
        edges: Of the histograms' bins, 42 numbers, in the units of the raw variation's sigma.
        variation: How a weight deviates that was written once.
        raw: Standard deviation of the first write, in the same units.
        weights: How many weights were simulated.
        seed: Of the first write and of the loops.
    """

    points: tuple[WriteVerifyPoint, ...]
    edges: tuple[float, ...]
    variation: Variation
    raw: float
    weights: int
    seed: int

    def table(self) -> str:
        """One line a loop: the settings in which loops differ, residual, and write cycles with the first write."""
        own = self._differing()
        rows = [[*own, "residual mean", "std ± error", "beyond", "given up", "writes", *_percentile_names()]]
        for point in self.points:
            rows.append(
                [
                    *(_shown(getattr(point.loop, name)) for name in own),
                    f"{point.mean:+.4f}",
                    f"{point.std:.4f} ± {point.std_error:.1g}",
                    f"{100 * point.beyond:.2f} %",
                    f"{100 * point.given_up:.2f} %",
                    f"{point.writes:.2f}",
                    *(f"{value:g}" for value in point.percentiles),
                ]
            )
        common = [f"{name}={_shown(getattr(self.points[0].loop, name))}" for name in SETTINGS if name not in own]
        footer = f"{self.variation}: std {self.raw:.4f} after one write; {self.weights} weights, seed {self.seed}"
        return "\n".join([*aligned(rows), "; ".join([footer, ", ".join(common)])])

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Standard deviation of the residual against write cycles, one line for loops that differ in ``step`` only.

        Where the first write has SWIM's std of 0.1, its published point is drawn too. Give the same axes to several
        curves to compare them.

        Args:
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes. Bars are two standard errors.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        figure, ax = figure_and_axes(ax)
        from matplotlib.ticker import LogLocator

        own = [name for name in self._differing() if name != "step"]
        lines: dict[tuple[Any, ...], list[WriteVerifyPoint]] = {}
        for point in self.points:
            lines.setdefault(tuple(getattr(point.loop, name) for name in own), []).append(point)
        for values, points in lines.items():
            label = ", ".join(f"{name} {_shown(value)}" for name, value in zip(own, values, strict=True))
            points = sorted(points, key=lambda point: point.loop.step)
            ax.errorbar(
                [point.writes for point in points],
                [point.std for point in points],
                [2 * point.std_error for point in points],
                marker=".",
                label=label or f"tolerance {_shown(points[0].loop.tolerance)}",
            )
        is_drawn = any(line.get_label() == PUBLISHED_LABEL for line in ax.get_lines())
        if math.isclose(self.raw, PUBLISHED_RAW, rel_tol=0.05) and not is_drawn:
            ax.plot(PUBLISHED_WRITES, PUBLISHED_RESIDUAL, "k*", markersize=12, linestyle="", label=PUBLISHED_LABEL)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        ax.xaxis.set_major_formatter("{x:g}")
        ax.xaxis.set_minor_formatter("")
        ax.set_xlabel("write cycles a weight, the first write included")
        ax.set_ylabel("std of the residual")
        ax.legend(fontsize="small")
        return figure, ax

    def to_csv(self, path: str | Path) -> None:
        """Write one row a loop: its settings, the statistics, and the histogram's counts.

        The first line is a comment with how it was measured. A count's column is named after the centre of its bin.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {"variation": str(self.variation), "raw": self.raw, "weights": self.weights, "seed": self.seed}
        centres = [f"count_{0.5 * (low + high):.6g}" for low, high in itertools.pairwise(self.edges)]
        text = PREFIX + json.dumps(about) + "\n" + csv_line((*SETTINGS, *_STATISTICS, *centres))
        for point in self.points:
            settings = (getattr(point.loop, name) for name in SETTINGS)
            text += csv_line((*settings, *point.statistics, *point.counts))
        path.write_text(text, encoding="utf-8")

    def _differing(self) -> list[str]:
        """Settings in which the loops differ; all of one loop that are not the default, and at least the tolerance."""
        if len(self.points) == 1:
            own, default = self.points[0].loop, WriteVerify()
            return [name for name in SETTINGS if name == "tolerance" or getattr(own, name) != getattr(default, name)]
        return [name for name in SETTINGS if len({getattr(point.loop, name) for point in self.points}) > 1]


def write_verify_curve(
    variation: Variation,
    loops: Iterable[WriteVerify] | Mapping[str, Sequence[Any]],
    *,
    weights: Tensor | None = None,
    seed: int = 0,
) -> WriteVerifyCurve:
    """Run write-verify loops on the same first write, and measure what each leaves and costs.

    Args:
        variation: How a weight deviates that was written once; at each rewrite of ``form="redraw"`` too. Of a sum with
            faults or drift only the part that is an error of writing counts.
        loops: Loops, or a grid of them: values by name of an argument of :class:`WriteVerify`, every combination of
            which is run, with the defaults for the rest.
        weights: Target values, any shape, on the CPU; default: 20001 evenly spaced ones. Their distribution matters for
            measured devices and for a saturation only.
        seed: Of the first write, which all loops share, and of each loop.

    Returns:
        Residuals and cycles of each loop, with ``.table()``, ``.plot()`` and ``.to_csv(path)``.

    Raises:
        ValueError: No loop, no weight or only zeros, a setting out of range, or an argument that there is not.

    Example:
        >>> from lightning_cim import Gaussian
        >>> curve = write_verify_curve(Gaussian(0.1), {"tolerance": [0.036, 0.06]})
        >>> [f"{point.std:.3f} {point.writes:.1f}" for point in curve.points]
        ['0.030 10.4', '0.048 7.5']
    """
    runs = _grid(loops) if isinstance(loops, Mapping) else tuple(loops)
    if not runs:
        raise ValueError("write_verify_curve needs one loop or more, such as [WriteVerify(tolerance=0.06)]")
    target = torch.linspace(-1.0, 1.0, 20001) if weights is None else weights.detach().float().cpu()
    unit = float(max_abs(target)) * unit_factor(variation)
    if not (math.isfinite(unit) and unit > 0):
        raise ValueError("write_verify_curve: weights must be finite numbers that are not all 0")
    generator = torch.Generator().manual_seed(seed)
    error = variation.written  # faults and time are no errors that writing again repairs
    first = error.sample(target, generator)
    state = generator.get_state()
    reach = 1.25 * max(loop.tolerance for loop in runs)
    edges = torch.linspace(-reach, reach, _BINS + 1, dtype=torch.float64)
    points = []
    for loop in runs:
        generator.set_state(state)
        written = loop.settle(target, first, error, generator)
        points.append(_point(loop, written.error.double().flatten() / unit, written.cycles.flatten(), edges))
    raw = float((first.double() / unit).std(correction=0))
    return WriteVerifyCurve(tuple(points), tuple(edges.tolist()), variation, raw, target.numel(), seed)


def _grid(values: Mapping[str, Sequence[Any]]) -> tuple[WriteVerify, ...]:
    unknown = [name for name in values if name not in SETTINGS]
    if unknown:
        raise ValueError(f"WriteVerify has no argument {', '.join(unknown)}; it has {', '.join(SETTINGS)}")
    return tuple(WriteVerify(**dict(zip(values, each, strict=True))) for each in itertools.product(*values.values()))


def _point(loop: WriteVerify, residual: Tensor, cycles: Tensor, edges: Tensor) -> WriteVerifyPoint:
    """Statistics of residuals in float64 and of the cycles after the first write."""
    mean, std = float(residual.mean()), float(residual.std(correction=0))
    fourth = float((residual - mean).pow(4).mean())
    spread = math.sqrt(max(0.0, fourth - std**4) / len(residual))  # standard error of the variance
    inside = residual.clamp(float(edges[0]), float(edges[-1]))
    ranks = torch.tensor(PERCENTILES, dtype=torch.float64) / 100
    writes = 1.0 + cycles.double()
    return WriteVerifyPoint(
        loop=loop,
        mean=mean,
        std=std,
        std_error=spread / (2 * std) if std else 0.0,
        beyond=float((residual.float().abs() > loop.tolerance).double().mean()),
        given_up=float((cycles == loop.max_cycles).double().mean()),
        writes=float(writes.mean()),
        percentiles=tuple(torch.quantile(writes, ranks, interpolation="lower").tolist()),
        counts=tuple(int(count) for count in torch.histogram(inside, edges).hist),
    )


def _percentile_names() -> list[str]:
    return [f"p{k}" for k in PERCENTILES]


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
