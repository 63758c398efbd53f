"""One number for how well a model does over some data, on one chip after another."""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from lightning_cim._data import CachedLoader
from lightning_cim.chip.criterion import CriterionCall, criterion_call
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import on_chip

ScoreName = Literal["accuracy", "loss"]


class Scorer:
    """Scores a model on chips: the accuracy where its criterion is a classification, else the mean loss.

    Args:
        model: The module; called as :func:`criterion_call` does, so a LightningModule and a plain module alike.
        data: Batches, each as the model's loaders give them. Kept in memory if they fit.

    Attributes:
        model: The module.
        name: ``"accuracy"`` (a fraction, higher is better) or ``"loss"`` (lower is better); known after the first pass.
    """

    def __init__(self, model: nn.Module, data: Iterable[Any]) -> None:
        self.model, self._batches = model, CachedLoader(data)
        self.name: ScoreName | None = None

    @torch.no_grad()
    def __call__(self, chip: Chip | None = None) -> float:
        """Score over all the data.

        Args:
            chip: Compute on this chip; None: with the weights as they are.

        Raises:
            ValueError: No batch, or a step that :func:`criterion_call` cannot follow.
        """
        total, count = 0.0, 0
        with on_chip(self.model, chip) if chip is not None else nullcontext():
            for index, batch in enumerate(self._batches):
                call = criterion_call(self.model, batch, index)
                if self.name is None:
                    self.name = "accuracy" if call.is_classification else "loss"
                hits, size = self._of(call)
                total, count = total + hits, count + size
        if not count:
            raise ValueError("there is no batch to score on; look at the loader")
        return total / count

    def drop(self, score: float, ideal: float) -> float:
        """How much worse than the ideal a score is, in its own units."""
        return ideal - score if self.name == "accuracy" else score - ideal

    def _of(self, call: CriterionCall) -> tuple[float, int]:
        if self.name == "accuracy":
            hits = call.hits()
            return float(hits.sum()), hits.numel()
        size = call.target.shape[0] if call.target.ndim else 1
        loss = call.loss()
        summed = call.arguments.get("reduction") == "sum"
        return float(loss) if summed else float(loss.mean()) * size, size


def interval(scores: np.ndarray) -> np.ndarray:
    """Half width of the 95 % interval of a mean over chips, the last axis: 1.96 std / sqrt(chips); NaN for one chip.

    Example:
        >>> float(interval(np.array([1.0, 2.0, 3.0])).round(4))
        1.1316
    """
    chips = scores.shape[-1]
    if chips < 2:
        return np.full(scores.shape[:-1], math.nan)
    return np.asarray(1.96 * scores.std(axis=-1, ddof=1) / math.sqrt(chips))
