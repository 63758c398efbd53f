"""How much the loss rises when a weight is off: the diagonal of the Hessian of the mean loss, by mapped weight."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn

from lightning_cim._compiled import uncompiled
from lightning_cim._undisturbed import evaluating
from lightning_cim.chip.criterion import CriterionCall, criterion_call
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.scope import WeightScope
from lightning_cim.programming import gauss_newton, hutchinson, recursion
from lightning_cim.programming.curvature import curvature, plain_call, samples
from lightning_cim.programming.leaves import single_precision, weight_leaves, without_variation
from lightning_cim.programming.recursion import NoRuleError

Method = Literal["auto", "recursion", "gauss_newton", "hutchinson"]

PROBES = {"recursion": 1, "gauss_newton": 8, "hutchinson": 32}
"""Random probes for each batch, unless told otherwise; the recursion has none."""

Diagonal = tuple[list[Tensor], CriterionCall]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sensitivity:
    """The diagonal of the Hessian of the mean loss over some data.

    For independent errors of mean zero at a trained optimum, the expected rise of the loss is
    1/2 sum_i values_i Var(w_i).

    Attributes:
        values: By name of the mapped parameter, a tensor of its shape and device, in loss per squared weight, >= 0.
        method: ``"recursion"``, ``"gauss_newton"`` or ``"hutchinson"``.
        samples: Over how many samples.
    """

    values: dict[str, Tensor] = field(repr=False)
    method: str
    samples: int


def sensitivity(
    model: nn.Module,
    data: Iterable[Any],
    method: Method = "auto",
    *,
    mapping: Mapping | None = None,
    max_batches: int | None = None,
    probes: int | None = None,
    seed: int = 0,
) -> Sensitivity:
    """The second derivative of the mean loss with respect to every mapped weight.

    * ``"recursion"``: SWIM's rule, one forward and one backward pass (arXiv 2202.08395). Leaves out cross terms between
      activations. For convolutions, linear layers, ReLU and other piecewise linear functions, pooling, batch norm, and
      additions.
    * ``"gauss_newton"``: the generalised Gauss-Newton diagonal, unbiased, for any network; as many backward passes as
      ``probes``.
    * ``"hutchinson"``: the Hessian's own diagonal, unbiased before what is negative is set to 0, for any network and
      criterion that can be differentiated twice; noisy.
    * ``"auto"``: the first of these that fits the network and its criterion; another than the first is logged.

    The model runs in eval mode without variation, a LightningModule by its own ``training_step``. The loss is that of
    all the data as one batch, so that batches of any size give the same result; of a criterion that sums, the mean over
    samples. Modes, gradients, buffers, random state and parameters are given back as they were. The diagonal is
    computed in float32 for a model in half precision.

    Args:
        model: A LightningModule, a module with ``cim_logits_and_target(batch)``, or a plain module.
        data: Batches, for example a DataLoader of the training data.
        method: See above.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        max_batches: Use so many batches at most.
        probes: Random probes for each batch, >= 1; default 8 for Gauss-Newton, 32 for Hutchinson.
        seed: Seeds the probes, and the order in which a shuffling loader gives its batches.

    Returns:
        The diagonal by parameter name.

    Raises:
        ValueError: An unknown method, no batch, a network or criterion that the method has no rule for (named), a model
            on a chip, a mapping that does not fit, or a result that is not finite.

    Example:
        >>> model = nn.Linear(2, 2, bias=False)
        >>> _ = nn.init.zeros_(model.weight)
        >>> found = sensitivity(model, [(torch.tensor([[1.0, 2.0]]), torch.tensor([0]))])
        >>> found
        Sensitivity(method='recursion', samples=1)
        >>> found.values["weight"]
        tensor([[0.2500, 1.0000],
                [0.2500, 1.0000]])
    """
    _check(method, max_batches, probes)
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    # cuDNN's recurrent kernels have no backward pass in eval mode.
    recurrent = device.type == "cuda" and any(isinstance(module, nn.RNNBase) for module in model.modules())
    kernels: Any = torch.backends.cudnn.flags(enabled=False) if recurrent else nullcontext()
    with (
        kernels,
        uncompiled(),  # a compiled graph knows nothing of second derivatives
        evaluating(model, seed),
        torch.enable_grad(),
        weight_leaves(model, mapping or Mapping()) as leaves,
        without_variation(model) as scope,  # inside, so that it is closed before the parameters come back
    ):
        estimator = _Estimator(model, scope, list(leaves.values()), method, probes, seed)
        for index, batch in enumerate(islice(data, max_batches)):
            estimator.add(single_precision(batch), index)
    if not estimator.batches:
        raise ValueError("sensitivity: data gave no batch; a generator is used up after one pass")
    if not estimator.total:
        raise ValueError("sensitivity: every target is ignored or has weight 0, so that there is no loss")
    values = {name: (value / estimator.total).clamp_(min=0) for name, value in zip(leaves, estimator.sums, strict=True)}
    _check_values(model, values)
    return Sensitivity(values, estimator.method, estimator.samples)


class _Estimator:
    """Adds up the diagonal over batches; an automatic method is settled on the first batch."""

    def __init__(
        self,
        model: nn.Module,
        scope: WeightScope,
        weights: list[Tensor],
        method: Method,
        probes: int | None,
        seed: int,
    ) -> None:
        self._model, self._scope, self._weights, self._probes = model, scope, weights, probes
        self._generator = Generator().manual_seed(seed)
        self._settled = method != "auto"
        self.method: str = "recursion" if method == "auto" else method
        self.sums = [torch.zeros_like(weight, requires_grad=False) for weight in weights]
        self.batches, self.samples, self.total = 0, 0, 0.0

    def add(self, batch: Any, index: int) -> None:
        def run() -> CriterionCall:
            self._scope.open()  # anew, because a graph can be passed backwards once
            return plain_call(criterion_call(self._model, batch, index), self._model)

        diagonal, call = self._diagonal(run)
        self._settled = True
        for total, part in zip(self.sums, diagonal, strict=True):
            total.add_(part)
        found = curvature(call)
        self.total += found.total if found is not None else samples(call)
        self.samples += samples(call)
        self.batches += 1

    def _diagonal(self, run: Callable[[], CriterionCall]) -> Diagonal:
        try:
            return self._with_method(run)
        except NoRuleError as error:
            if self._settled or self.method == "hutchinson":
                raise
            self.method = "gauss_newton" if self.method == "recursion" else "hutchinson"
            names = ", ".join(error.operations)
            if self.method == "hutchinson":
                reason = f"no second-derivative rule for the criterion ({names})"
            else:
                reason = f"no second-derivative rule for {names}"
            logger.warning("sensitivity of %s: %s; using method=%r", type(self._model).__name__, reason, self.method)
            return self._diagonal(run)

    def _with_method(self, run: Callable[[], CriterionCall]) -> Diagonal:
        probes = self._probes or PROBES[self.method]
        if self.method == "recursion":
            return recursion.batch_diagonal(run, self._weights)
        if self.method == "gauss_newton":
            return gauss_newton.batch_diagonal(run, self._weights, probes, self._generator)
        return hutchinson.batch_diagonal(run, self._weights, probes, self._generator)


def _check(method: str, max_batches: int | None, probes: int | None) -> None:
    if method not in get_args(Method):
        raise ValueError(f"method must be one of {', '.join(map(repr, get_args(Method)))}, got {method!r}")
    for name, value in (("max_batches", max_batches), ("probes", probes)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def _check_values(model: nn.Module, values: dict[str, Tensor]) -> None:
    for name, value in values.items():
        if not math.isfinite(float(value.sum())):
            raise ValueError(
                f"sensitivity of {type(model).__name__}: the second derivatives of {name!r} are not finite; look for"
                " activations or a loss that overflow"
            )
    flat = [name for name, value in values.items() if not bool(value.any())]
    if flat:
        logger.warning(
            "sensitivity of %s: the loss does not depend on %s, to second order: unused, computed without gradients,"
            " or behind a criterion without curvature",
            type(model).__name__,
            ", ".join(flat),
        )
