"""What a Tiny Shared Block gave back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lightning_cim._plotting import figure_and_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class SharedBlockReport:
    """A network on unverified devices before and after its shared block was trained. Printing it prints :meth:`table`.

    Attributes:
        metric: Which validation metric the figures are; None where validation logs none, and they are NaN.
        clean: On ideal devices, without the block.
        before: On the chip, without the block; a mean over held chips in mode ``"generic"``.
        after: On the chip, with the trained, write-verified block.
        block_weights: Parameters of the block, which are all that is write-verified.
        backbone_weights: The network's own weights on crossbars.
        width: Channels of the block.
        sites: Modules whose outputs the block is added to.
        epochs: Epochs of training the block.
        seconds: Wall-clock time of training it, validation included.
        history: (epoch, seconds so far, value of the metric) at the end of each validation.
        about: Variation, chip, residual and so on; printed below the table.

    Example:
        >>> report = SharedBlockReport("val/acc", 0.98, 0.70, 0.97, 272, 22800, 16, ("2", "5"), 10, 4.0)
        >>> round(report.recovered, 3), round(report.share, 4)
        (0.964, 0.0119)
    """

    metric: str | None
    clean: float
    before: float
    after: float
    block_weights: int
    backbone_weights: int
    width: int
    sites: tuple[str, ...]
    epochs: int
    seconds: float
    history: tuple[tuple[int, float, float], ...] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    @property
    def gap_before(self) -> float:
        """What the chip costs without the block, in the metric's units."""
        return abs(self.clean - self.before)

    @property
    def gap_after(self) -> float:
        """What the chip costs with the block; negative where it is better than clean."""
        return (self.clean - self.after) * (1 if self.clean >= self.before else -1)

    @property
    def recovered(self) -> float:
        """Share of the gap that the block closed; NaN where there was none."""
        return 1 - self.gap_after / self.gap_before if self.gap_before else math.nan

    @property
    def share(self) -> float:
        """Parameters of the block as a share of the network's weights on crossbars."""
        return self.block_weights / self.backbone_weights

    def seconds_to(self, target: float) -> float | None:
        """Wall-clock time until the validation metric first reached a target; None if it never did."""
        lower_is_better = self.before > self.clean
        for _, seconds, value in self.history:
            if value <= target if lower_is_better else value >= target:
                return seconds
        return None

    def table(self) -> str:
        """Metric, gap and cost, one a line."""
        name = self.metric or "no validation metric"
        lines = [
            (f"{name} on ideal devices", f"{self.clean:.4f}"),
            (f"{name} on the chip, before", f"{self.before:.4f} (gap {self.gap_before:.4f})"),
            (f"{name} on the chip, after", f"{self.after:.4f} (gap {self.gap_after:.4f})"),
            ("share of the gap recovered", f"{self.recovered:.1%}"),
            ("block", f"width {self.width} at {len(self.sites)} places: {', '.join(self.sites)}"),
            ("write-verified", f"{self.block_weights} of {self.backbone_weights} weights ({self.share:.3%})"),
            ("training", f"{self.epochs} epochs, {self.seconds:.1f} s"),
        ]
        width = max(len(left) for left, _ in lines)
        about = ", ".join(f"{key}: {value}" for key, value in self.about.items())
        return "\n".join([*(f"{left.ljust(width)}  {right}" for left, right in lines), *([about] if about else [])])

    def __str__(self) -> str:
        return self.table()

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """The validation metric over wall-clock time, with the levels without the block and on ideal devices.

        Args:
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        figure, ax = figure_and_axes(ax)
        seconds, values = [0.0, *(row[1] for row in self.history)], [self.before, *(row[2] for row in self.history)]
        ax.plot(seconds, values, marker="o", color="#1f4e79", label="with the shared block")
        ax.axhline(self.clean, color="#2e7d32", linestyle="--", label="ideal devices")
        ax.axhline(self.before, color="#c0392b", linestyle="--", label="the chip without the block")
        ax.set_xlabel("seconds of training the block")
        ax.set_ylabel(self.metric or "")
        ax.set_title(f"{self.block_weights} write-verified weights ({self.share:.2%})")
        ax.legend(fontsize="small")
        return figure, ax
