"""How often training under variation converges at all, as a torchmetrics class."""

from __future__ import annotations

import math
import warnings
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_cim._plotting import figure_and_axes

RUNS_NEEDED = 10


class ConvergenceProbability(Metric):
    """Share of independent trainings whose accuracy on chips ends above a threshold.

    The threshold is a share of a reference: the accuracy of a network that was trained and tested without variation.
    (The same network's own clean accuracy is no reference: one that never trained has chance accuracy in both.) NeFT
    (arXiv 2305.14561) speaks of convergence without a formula that we could read; the definition is ours.

    Args:
        clean_accuracy: The reference, in the unit of what is updated.
        fraction: The threshold as a share of it, 0 < fraction <= 1.
        kwargs: As for every torchmetrics class.

    Raises:
        ValueError: Arguments out of range.

    Example:
        >>> metric = ConvergenceProbability(clean_accuracy=0.98)
        >>> metric.update(torch.tensor([0.91, 0.10, 0.93, 0.92, 0.11, 0.90, 0.94, 0.92, 0.93, 0.91]))
        >>> metric.compute()
        tensor(0.8000)
        >>> print("{:.2f} to {:.2f}".format(*metric.interval()))
        0.49 to 0.94
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    values: list[Tensor]

    def __init__(self, clean_accuracy: float, fraction: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (math.isfinite(clean_accuracy) and clean_accuracy > 0):
            raise ValueError(f"ConvergenceProbability: clean_accuracy must be greater than 0, got {clean_accuracy!r}")
        if not 0 < fraction <= 1:
            raise ValueError(f"ConvergenceProbability: fraction must lie in (0, 1], got {fraction!r}")
        self.clean_accuracy, self.fraction = clean_accuracy, fraction
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @property
    def threshold(self) -> float:
        """The accuracy that a run must exceed."""
        return self.fraction * self.clean_accuracy

    def update(self, accuracy: Tensor | float) -> None:
        """Add the final mean accuracy over chips of one training, or of several.

        Args:
            accuracy: A number, or a tensor of one number a training seed. NaN (a diverged run) has not converged.
        """
        self.values.append(torch.as_tensor(accuracy, dtype=torch.float64, device=self.device).reshape(-1))

    def compute(self) -> Tensor:
        """The share of runs above the threshold; warns when there are fewer than 10."""
        runs = dim_zero_cat(self.values)
        if runs.numel() < RUNS_NEEDED:
            warnings.warn(
                f"ConvergenceProbability: {runs.numel()} runs say little; use at least {RUNS_NEEDED} seeds",
                stacklevel=2,
            )
        return (runs > self.threshold).float().mean()

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Wilson's interval of the probability (Wilson, JASA 1927), which holds at 0 and 1 too.

        Args:
            confidence: 0 < confidence < 1.

        Raises:
            ValueError: No runs, or confidence out of range.
        """
        if not 0 < confidence < 1:
            raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
        if not self.values:
            raise ValueError("ConvergenceProbability: no runs yet")
        with self.sync_context(should_sync=self._to_sync, should_unsync=self._should_unsync):
            runs = dim_zero_cat(self.values)
        n, p = runs.numel(), float((runs > self.threshold).double().mean())
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + (z / (2 * n)) ** 2)
        return max(0.0, middle - half), min(1.0, middle + half)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Every run's accuracy, with the threshold and the reference.

        Args:
            val: Not used; the figure needs the runs.
            ax: Draw here instead of on a new figure.

        Returns:
            Figure and axes.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        runs = dim_zero_cat(self.values).cpu().numpy()
        low, high = self.interval()
        figure, ax = figure_and_axes(ax, figsize=(5, 3))
        ax.plot(range(1, len(runs) + 1), runs, "o", color="#1f4e79")
        ax.axhline(self.threshold, color="#c0392b", label=f"threshold {self.threshold:.3g}")
        ax.axhline(self.clean_accuracy, color="#7f8c8d", linestyle="--", label="without variation")
        share = float((runs > self.threshold).mean())
        ax.set(xlabel="training", ylabel="accuracy on chips", title=f"{share:.2f} converged [{low:.2f}, {high:.2f}]")
        ax.legend(fontsize="small")
        return figure, ax
