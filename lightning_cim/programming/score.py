"""One number for how well a model does over some data, on one chip after another."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lightning_cim.chip.criterion import CriterionCall, criterion_call
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import on_chip
from lightning_cim.programming.leaves import seeded

ScoreName = Literal["accuracy", "loss"]
BUDGET = 2 * 2**30


class Batches:
    """Reads a loader once and keeps its batches, if they fit.

    A step that changes its batch in place would feed the changed batch to the next chip; this is noticed by the
    tensors' version counters, and the loader is then read again at every pass.

    Args:
        loader: Any iterable of batches; not shuffled or augmented, so that every chip sees the same.
        budget: Bytes to keep at most.
    """

    def __init__(self, loader: Iterable[Any], budget: int = BUDGET) -> None:
        self._loader, self._budget = loader, budget
        self._kept: list[Any] | None = None
        self._versions: list[list[int]] = []

    def __iter__(self) -> Iterator[Any]:
        if self._kept is not None and [_versions(batch) for batch in self._kept] == self._versions:
            yield from self._kept
            return
        self._kept, self._versions = None, []
        kept: list[Any] = []
        size = 0
        for batch in self._loader:
            size += sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
            if size <= self._budget:
                kept.append(batch)
                self._versions.append(_versions(batch))
            else:
                kept.clear()
            yield batch
        if size <= self._budget:
            self._kept = kept


class Scorer:
    """Scores a model on chips: the accuracy where its criterion is a classification, else the mean loss.

    Args:
        model: The module; called as :func:`criterion_call` does, so a LightningModule and a plain module alike.
        data: Batches, each as the model's loaders give them. Kept in memory if they fit.

    Attributes:
        name: ``"accuracy"`` (a fraction, higher is better) or ``"loss"`` (lower is better); known after the first pass.
    """

    def __init__(self, model: nn.Module, data: Iterable[Any]) -> None:
        self._model, self._batches = model, Batches(data)
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
        with on_chip(self._model, chip) if chip is not None else nullcontext():
            for index, batch in enumerate(self._batches):
                call = criterion_call(self._model, batch, index)
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


@contextmanager
def undisturbed(model: nn.Module, seed: int = 0) -> Iterator[None]:
    """Put a model into eval mode for the block; afterwards its modes and all random states are what they were.

    Args:
        model: The module.
        seed: Of the order in which a shuffling loader gives its batches.
    """
    modes = {module: module.training for module in model.modules()}
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with seeded(seed, device):
        try:
            model.eval()
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode


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


def _versions(batch: Any) -> list[int]:
    return [leaf._version for leaf in tree_leaves(batch) if isinstance(leaf, Tensor) and not leaf.is_inference()]
