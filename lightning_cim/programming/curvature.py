"""Second derivatives of a criterion with respect to the logits: where every sensitivity method starts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn._reduction import legacy_get_string

from lightning_cim.chip.criterion import CriterionCall, CriterionSpy


@dataclass(frozen=True)
class Curvature:
    """The Hessian Lambda, with respect to the logits, of a criterion summed over its targets.

    Attributes:
        diagonal: Of the logits' shape.
        total: What the mean over the same targets divides by; adds up over batches.
        root: Maps independent signs s of the logits' shape to B s with B B^T = Lambda.
    """

    diagonal: Tensor
    total: float
    root: Callable[[Tensor], Tensor]


def curvature(call: CriterionCall) -> Curvature | None:
    """The curvature of a criterion at its logits.

    * cross entropy: a (diag(p) - p p^T), where p is the softmax and a is the weight of the target. Soft targets, class
      weights, label smoothing, ignored targets and further dimensions are in a.
    * mean squared error: 2
    * binary cross entropy with logits: a s (1 - s), where s is the sigmoid and a holds ``weight`` and ``pos_weight``

    Args:
        call: The criterion's call.

    Returns:
        None for any other criterion. For ``nll_loss`` the curvature of the cross entropy, whose root is taken with
        respect to the log-probabilities that it is called with; its diagonal has no meaning of its own.

    Example:
        >>> call = CriterionCall(F.cross_entropy, torch.zeros(1, 2), torch.tensor([0]))
        >>> curvature(call).diagonal
        tensor([[0.2500, 0.2500]])
    """
    rule = _RULES.get(call.function)
    return None if rule is None else rule(call.logits.detach(), call.target.detach(), call.arguments)


def plain_call(call: CriterionCall, owner: nn.Module) -> CriterionCall:
    """The same call with the torch function that a loss module or a ``functools.partial`` stands for."""
    inner = call.function.func if isinstance(call.function, functools.partial) else call.function
    if inner in _RULES and inner is call.function:
        return call
    if not (inner in _RULES or isinstance(inner, nn.modules.loss._Loss)):
        return call
    with CriterionSpy(owner, stop=True) as spy:
        call.loss()
    return spy.calls[0] if spy.calls and spy.calls[0].logits is call.logits else call


def divisor(call: CriterionCall) -> float:
    """What the criterion's own reduction divides the summed loss by: 1 unless it is a mean."""
    found = curvature(call)
    if _reduction(call.arguments) != "mean":
        return 1.0
    return found.total if found is not None else float(samples(call))


def samples(call: CriterionCall) -> int:
    """How many samples a call scores: the length of the first dimension of its logits."""
    classes_only = call.function in (F.cross_entropy, F.nll_loss) and call.logits.ndim == 1
    return 1 if classes_only or call.logits.ndim == 0 else call.logits.shape[0]


def _reduction(arguments: Mapping[str, Any]) -> str:
    size_average, reduce = arguments.get("size_average"), arguments.get("reduce")
    if size_average is not None or reduce is not None:
        return legacy_get_string(size_average, reduce, emit_warning=False)
    return str(arguments.get("reduction", "mean"))


def _cross_entropy(logits: Tensor, target: Tensor, arguments: Mapping[str, Any]) -> Curvature:
    probabilities = logits.softmax(min(1, logits.ndim - 1))
    weight, total = _target_weights(logits, target, arguments)
    root = weight.sqrt()

    def apply(signs: Tensor) -> Tensor:
        spread = probabilities.sqrt() * signs
        return root * (spread - probabilities * spread.sum(min(1, logits.ndim - 1), keepdim=True))

    return Curvature(weight * probabilities * (1 - probabilities), total, apply)


def _negative_log_likelihood(logits: Tensor, target: Tensor, arguments: Mapping[str, Any]) -> Curvature:
    # d log p / dz = I - 1 p^T turns sqrt(p) s into the root of the cross entropy's Hessian.
    weight, total = _target_weights(logits, target, arguments)
    root = (weight * logits.exp()).sqrt()
    return Curvature(torch.full_like(logits, torch.nan), total, lambda signs: root * signs)


def _target_weights(logits: Tensor, target: Tensor, arguments: Mapping[str, Any]) -> tuple[Tensor, float]:
    """The weight a of every target, broadcastable to the logits, and what the mean divides by."""
    dim = min(1, logits.ndim - 1)
    classes = logits.shape[dim]
    weight = arguments.get("weight")
    smoothing = float(arguments.get("label_smoothing", 0.0))
    weight = torch.ones(classes, dtype=logits.dtype, device=logits.device) if weight is None else weight.to(logits)
    if target.is_floating_point():
        shape = [1] * logits.ndim
        shape[dim] = classes
        smooth = target * (1 - smoothing) + smoothing / classes
        scores = logits.numel() / classes
        found, mean_divisor = (smooth * weight.view(shape)).sum(dim, keepdim=True), scores
    else:
        counted = target != arguments.get("ignore_index", -100)
        own = weight[target.where(counted, 0)] * counted
        found = ((1 - smoothing) * own + smoothing / classes * weight.sum() * counted).unsqueeze(dim)
        mean_divisor = float(own.sum())
    return found, mean_divisor if _reduction(arguments) == "mean" else _rows(logits, logits.ndim == 1)


def _squared_error(logits: Tensor, target: Tensor, arguments: Mapping[str, Any]) -> Curvature:
    shape = (logits - target).shape
    weight = arguments.get("weight")
    weight = torch.ones_like(logits) if weight is None else weight.to(logits)
    weight = weight.expand(shape)
    return _separable(2 * weight, float(weight.sum()), logits, arguments)


def _binary_cross_entropy(logits: Tensor, target: Tensor, arguments: Mapping[str, Any]) -> Curvature:
    positive, weight = arguments.get("pos_weight"), arguments.get("weight")
    scale = torch.ones_like(logits)
    if positive is not None:
        scale = 1 + (positive - 1) * target
    if weight is not None:
        scale = scale * weight
    sigmoid = logits.sigmoid()
    return _separable(scale * sigmoid * (1 - sigmoid), float(logits.numel()), logits, arguments)


def _separable(diagonal: Tensor, total: float, logits: Tensor, arguments: Mapping[str, Any]) -> Curvature:
    """The curvature of a sum of losses of one logit each."""
    diagonal = diagonal.sum_to_size(logits.shape)
    root = diagonal.sqrt()
    mean = _reduction(arguments) == "mean"
    return Curvature(diagonal, total if mean else _rows(logits, logits.ndim == 0), lambda signs: root * signs)


def _rows(logits: Tensor, single: bool) -> float:
    return 1.0 if single else float(logits.shape[0])


_RULES: dict[Callable[..., Any], Callable[[Tensor, Tensor, Mapping[str, Any]], Curvature]] = {
    F.cross_entropy: _cross_entropy,
    F.nll_loss: _negative_log_likelihood,
    F.mse_loss: _squared_error,
    F.binary_cross_entropy_with_logits: _binary_cross_entropy,
}
