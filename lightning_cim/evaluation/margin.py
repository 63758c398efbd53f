"""What a worst-case search makes worse: the margins of a classifier, or the loss of anything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cim.chip.criterion import CriterionCall

_BINARY = (F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss)


def class_rows(call: CriterionCall) -> tuple[Tensor, Tensor]:
    """A classifier's predictions as rows of class logits.

    (N, C, ...) logits become one row a position; binary and multi-label ones become one row a label, with the logits
    (0, z) of "no" and "yes". Ignored targets are left out; class probabilities count as their most likely class.

    Args:
        call: A call whose ``is_classification`` holds.

    Returns:
        Logits (predictions, classes) and class indices (predictions,).
    """
    if call.function in _BINARY:
        yes = call.logits.flatten()
        return torch.stack((torch.zeros_like(yes), yes), 1), (call.target.flatten() > 0.5).long()
    classes = min(1, call.logits.ndim - 1)
    target = call.target.argmax(classes) if call.target.is_floating_point() else call.target
    target = target.flatten()
    logits = call.logits.movedim(classes, -1).reshape(target.numel(), -1)
    kept = target != call.arguments.get("ignore_index", -100)
    return logits[kept], target[kept]


def margins(call: CriterionCall) -> Tensor:
    """z_y - max_{j != y} z_j of every prediction; for a binary label +z or -z.

    Example:
        >>> call = CriterionCall(F.cross_entropy, torch.tensor([[2.0, 0.5, 1.0]]), torch.tensor([0]))
        >>> margins(call)
        tensor([1.])
    """
    logits, target = class_rows(call)
    own = target[:, None]
    return logits.gather(1, own).squeeze(1) - logits.scatter(1, own, -torch.inf).amax(1)


@dataclass(frozen=True)
class Tally:
    """Sums over predictions.

    Attributes:
        objective: What the search minimises.
        score: Right answers, or losses.
        count: Predictions, or samples.
    """

    objective: float = 0.0
    score: float = 0.0
    count: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.objective + other.objective, self.score + other.score, self.count + other.count)

    @property
    def mean(self) -> float:
        """Accuracy, or mean loss."""
        return self.score / self.count


def objective(call: CriterionCall, kappa: float) -> tuple[Tensor, Tally]:
    """What the search minimises over one batch, and the batch's tally.

    A classifier's objective is sum_x max(margin, -kappa): predictions that are wrong by more than kappa pull no more
    (Carlini and Wagner, arXiv 1608.04644). Anything else has minus its loss, summed over samples.

    Args:
        call: Logits, target and criterion of the batch.
        kappa: At least 0, in units of logits.

    Returns:
        A scalar with its graph, and the tally.
    """
    if call.is_classification:
        found = margins(call)
        value = found.clamp(min=-kappa).sum()
        return value, Tally(value.item(), float(call.hits().sum()), found.numel())
    samples, loss = len(call.logits), call.loss()
    if loss.ndim:
        loss = loss.mean()
    elif call.arguments.get("reduction") == "sum":
        loss = loss / samples
    value = -samples * loss
    return value, Tally(value.item(), -value.item(), samples)
