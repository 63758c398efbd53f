"""Chip statistics as torchmetrics classes."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_cim.evaluation.percentile import Percentile, chips_needed, percentile


class KPP(Metric):
    """k-th percentile performance over chips: the realistic worst case (TRICE, arXiv 2307.15853).

    Update it with one value a chip. :meth:`compute` gives the percentile, :meth:`interval` also its order-statistic
    confidence interval.

    Args:
        k: In per cent, 0 < k < 100.
        lower_is_better: For losses: the worse end is the high one.
        kwargs: As for every torchmetrics class.

    Example:
        >>> metric = KPP(k=10)
        >>> for accuracy in torch.linspace(0.5, 1.0, 101):
        ...     metric.update(accuracy)
        >>> metric.compute()
        tensor(0.5500)
    """

    full_state_update = False
    values: list[Tensor]

    def __init__(self, k: float = 1.0, lower_is_better: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < k < 100:
            raise ValueError(f"KPP: k is a percentile in per cent, 0 < k < 100, got {k!r}")
        self.k, self.lower_is_better = k, lower_is_better
        self.add_state("values", default=[], dist_reduce_fx="cat")

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]  # torchmetrics lets no instance set it
        """The opposite of ``lower_is_better``."""
        return not self.lower_is_better

    def update(self, value: Tensor | float) -> None:
        """Add the performance of one chip, or of several.

        Args:
            value: A number, or a tensor of one number a chip.
        """
        self.values.append(torch.as_tensor(value, dtype=torch.float64, device=self.device).reshape(-1))

    def compute(self) -> Tensor:
        """The k-th percentile; warns when there are fewer than 10 / (k / 100) chips."""
        found = self.interval()
        if found.chips < chips_needed(self.k):
            warnings.warn(
                f"KPP: {found.chips} chips are few for a {self.k:g} % percentile; use at least {chips_needed(self.k)}",
                stacklevel=2,
            )
        return torch.tensor(found.value)

    def interval(self, confidence: float = 0.95) -> Percentile:
        """The percentile with its confidence interval."""
        return percentile(dim_zero_cat(self.values).cpu().numpy(), self.k, self.lower_is_better, confidence)

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Histogram of the chips with the percentile marked; see :meth:`ChipResult.plot`."""
        from lightning_cim.evaluation.result import ChipResult

        values = dim_zero_cat(self.values).cpu().numpy()
        result = ChipResult({"value": values}, list(range(values.size)), {}, ("value",) if self.lower_is_better else ())
        return result.plot("value", self.k, ax)
