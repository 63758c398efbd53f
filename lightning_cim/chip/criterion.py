"""The criterion spy: logits and target of a loss function that an unchanged training step calls.

Methods whose loss is not a sum of losses (NeFT), or that need derivatives at the logits (SWIM), need more than the
scalar that ``training_step`` returns. The spy sees the call of the loss function itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from lightning_cim.chip.traces import no_traces

CRITERIA: frozenset[Callable[..., Tensor]] = frozenset(
    {
        F.cross_entropy,
        F.nll_loss,
        F.binary_cross_entropy_with_logits,
        F.multilabel_soft_margin_loss,
        F.soft_margin_loss,
        F.multi_margin_loss,
        F.multilabel_margin_loss,
        F.mse_loss,
        F.l1_loss,
        F.smooth_l1_loss,
        F.huber_loss,
    }
)
"""Loss functions that the spy knows; every ``torch.nn`` loss module calls its function."""

WITHOUT_LOGITS: frozenset[Callable[..., Tensor]] = frozenset(
    {F.binary_cross_entropy, F.kl_div, F.poisson_nll_loss, F.gaussian_nll_loss, F.ctc_loss}
)
"""Losses whose input is no logit or prediction, so that nothing can be combined or differentiated there."""


@dataclass(frozen=True)
class CriterionCall:
    """One call of a loss function.

    Attributes:
        function: For example ``torch.nn.functional.cross_entropy``.
        logits: Its first argument: (N, C), (N, C, ...) or (N, ...); log-probabilities for ``nll_loss``.
        target: Its second argument.
        arguments: Its other arguments by name (``weight``, ``reduction``, ``label_smoothing``, ...).

    Example:
        >>> call = CriterionCall(F.cross_entropy, torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
        >>> call.hits().tolist()
        [True, False]
    """

    function: Callable[..., Tensor]
    logits: Tensor
    target: Tensor
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def loss(self, logits: Tensor | None = None) -> Tensor:
        """Call the criterion again.

        Args:
            logits: Other logits of the same shape; default: the recorded ones.

        Returns:
            The loss, reduced as the module reduced it.
        """
        if logits is None:
            return self.function(self.logits, self.target, **self.arguments)
        if self.function is F.nll_loss:  # its input has to be normalised; a sum of log-probabilities is not
            logits = F.log_softmax(logits, dim=min(1, logits.ndim - 1))
        return self.function(logits, self.target, **self.arguments)

    @property
    def is_classification(self) -> bool:
        """Whether logits and target name classes, so that there are right and wrong answers."""
        if self.function in (F.cross_entropy, F.nll_loss, F.multi_margin_loss):
            return True
        return self.function in (F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss)

    def hits(self) -> Tensor:
        """Which predictions are right: a flat bool tensor, one entry a prediction (ignored targets are left out).

        Raises:
            ValueError: The criterion is no classification.
        """
        if not self.is_classification:
            raise ValueError(f"{self.function.__name__} has no right and wrong answers; use its loss")
        if self.function in (F.binary_cross_entropy_with_logits, F.multilabel_soft_margin_loss):
            return ((self.logits > 0) == (self.target > 0.5)).flatten()
        classes = min(1, self.logits.ndim - 1)
        target = self.target
        if target.is_floating_point():  # class probabilities, as mixup makes them
            target = target.argmax(classes)
        right = (self.logits.argmax(classes) == target).flatten()
        return right[(target != self.arguments.get("ignore_index", -100)).flatten()]


class CriterionSpy(TorchFunctionMode):
    """Within the block, sees each call of a loss function; can end the block there, or put another loss in its place.

    Calls whose logits need no gradient, while gradients are recorded, are somebody's metric and are passed by.

    Args:
        owner: The module whose step runs inside; named in errors.
        stop: End the block at the criterion, as if it had ended by itself.
        replace: Computes the loss that the module gets instead.

    Attributes:
        calls: The calls seen.
    """

    def __init__(
        self, owner: nn.Module, *, stop: bool = False, replace: Callable[[CriterionCall], Tensor] | None = None
    ) -> None:
        super().__init__()
        self._owner, self._replace = owner, replace
        self._end = _End() if stop else None
        self._trains = any(parameter.requires_grad for parameter in owner.parameters())
        self.calls: list[CriterionCall] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Record the call if the function is a criterion; any other function runs as ever."""
        kwargs = kwargs or {}
        if function in WITHOUT_LOGITS and self._counts(args[0]):
            raise ValueError(
                f"{type(self._owner).__name__} computes {function.__name__}, whose input is no logit. {_OFFER}"
            )
        if function not in CRITERIA or not self._counts(args[0] if args else kwargs["input"]):
            return function(*args, **kwargs)
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
        call = CriterionCall(function, bound.pop("input"), bound.pop("target"), bound)
        self.calls.append(call)
        if self._end is not None:
            raise self._end
        if self._replace is None:
            return function(*args, **kwargs)
        if len(self.calls) > 1:
            raise ValueError(
                f"{type(self._owner).__name__} calls two loss functions in one training step"
                f" ({', '.join(seen.function.__name__ for seen in self.calls)}); which one is meant? {_OFFER}"
            )
        return self._replace(call)

    def _counts(self, logits: Any) -> bool:
        if not isinstance(logits, Tensor):
            return False
        return logits.requires_grad or not (self._trains and torch.is_grad_enabled())

    def __enter__(self) -> CriterionSpy:
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """Leave the mode; the spy's own end of the block is no error."""
        super().__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        return error is not None and error is self._end

    @property
    def call(self) -> CriterionCall:
        """The call that was seen; see :meth:`check`."""
        self.check()
        return self.calls[0]

    def check(self) -> None:
        """Make sure that the module called a criterion.

        Raises:
            ValueError: It did not.
        """
        if not self.calls:
            raise ValueError(
                f"{type(self._owner).__name__}.training_step calls no loss function of torch"
                f" ({', '.join(sorted(function.__name__ for function in CRITERIA))}), or calls it inside compiled code."
                f" {_OFFER}"
            )


_OFFER = "Give the module a method cim_logits_and_target(batch) that returns logits and target, or those and the loss."


class _End(BaseException):
    """Ends a pass at the criterion; no ``except Exception`` of the module can swallow it."""


def criterion_call(model: nn.Module, batch: Any, batch_idx: int = 0) -> CriterionCall:
    """Run a model silently up to its loss.

    A LightningModule runs its own ``training_step`` and is stopped at the loss function, unless it offers
    ``cim_logits_and_target(batch)``, which returns ``(logits, target)`` or ``(logits, target, function)``. Any other
    module is called with the first element of an ``(inputs, target)`` batch; its loss is the cross entropy for integer
    targets, else the mean squared error. Batch-norm statistics, torchmetrics and logs are as if nothing had run. Mode,
    gradients and random state are the caller's.

    Args:
        model: The module, on its device.
        batch: What its loader gave; moved to the module's device.
        batch_idx: For steps that look at it.

    Returns:
        Logits, target and the criterion.

    Raises:
        ValueError: The step calls no loss function that is known, or the batch is no pair.

    Example:
        >>> call = criterion_call(nn.Linear(4, 3), (torch.ones(2, 4), torch.tensor([0, 1])))
        >>> call.function.__name__, tuple(call.logits.shape)
        ('cross_entropy', (2, 3))
    """
    batch = _on_device(model, batch)
    with no_traces(model):
        if hasattr(model, "cim_logits_and_target"):
            return offered_call(model, batch)
        step = getattr(model, "training_step", None)
        if step is None:
            return _plain_call(model, batch)
        step = getattr(step, "plain", step)  # on whatever chip the caller put the model, not on a training chip
        with CriterionSpy(model, stop=True) as spy:
            step(batch, batch_idx) if takes_index(step) else step(batch)
        return spy.call


def offered_call(model: nn.Module, batch: Any) -> CriterionCall:
    """What the module's own ``cim_logits_and_target`` says.

    Raises:
        ValueError: It returns something else than two or three things.
    """
    found = model.cim_logits_and_target(batch)  # type: ignore[operator]
    if not isinstance(found, tuple) or len(found) not in (2, 3):
        raise ValueError(
            f"{type(model).__name__}.cim_logits_and_target must return (logits, target) or (logits, target, loss"
            f" function), got {type(found).__name__}"
        )
    logits, target, *function = found
    return CriterionCall(function[0] if function else _default_criterion(target), logits, target)


def takes_index(step: Callable[..., Any]) -> bool:
    """Whether a step wants the batch's number as its second argument."""
    return len(inspect.signature(step).parameters) > 1


def _plain_call(model: nn.Module, batch: Any) -> CriterionCall:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2 or not isinstance(batch[1], Tensor):
        raise ValueError(
            f"{type(model).__name__} has no training_step, so its batches must be (inputs, target) pairs, got"
            f" {type(batch).__name__}. {_OFFER}"
        )
    inputs, target = batch
    return CriterionCall(_default_criterion(target), model(inputs), target)


def _default_criterion(target: Tensor) -> Callable[..., Tensor]:
    return F.mse_loss if target.is_floating_point() else F.cross_entropy


def _on_device(model: nn.Module, batch: Any) -> Any:
    parameter = next(model.parameters(), None)
    if parameter is None:
        return batch
    if hasattr(model, "transfer_batch_to_device"):  # a LightningModule may know batches that are no nested tensors
        return model.transfer_batch_to_device(batch, parameter.device, 0)  # type: ignore[operator]
    return tree_map(lambda leaf: leaf.to(parameter.device) if isinstance(leaf, Tensor) else leaf, batch)
