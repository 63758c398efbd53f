"""SWIM's sensitivity: the diagonal second derivative by one forward and one backward pass.

Source: "SWIM: Selective Write-Verify for Computing-in-Memory Neural Accelerators" (DAC 2022, arXiv 2202.08395). The
second derivative of the loss with respect to each activation passes backwards as a gradient does, with every Jacobian
squared elementwise; cross terms between activations are left out. It is exact in the last layer, and wherever every
activation has one path to the loss.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_cim.chip.criterion import CriterionCall
from lightning_cim.chip.quantise import _StraightThrough
from lightning_cim.programming.curvature import curvature
from lightning_cim.programming.operations import OPERATIONS, on_path
from lightning_cim.programming.rules import FUNCTIONS, Share


class NoRuleError(ValueError):
    """Operations between the weights and the loss through which a second derivative cannot be passed.

    Attributes:
        operations: Their names.
    """

    def __init__(self, operations: list[str]) -> None:
        self.operations = operations
        super().__init__(
            f"method='recursion': no second-derivative rule for {', '.join(operations)}; use method='gauss_newton',"
            " which works for any network, or method='auto'"
        )


class SecondDerivatives(TorchFunctionMode):
    """Within the block, operations on the path from a weight to the loss pass second derivatives backwards.

    Gradients that ``torch.autograd.grad`` takes afterwards through the recorded graph are second derivatives.
    """

    def __init__(self) -> None:
        super().__init__()
        self._normalised: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation by its rule; one that has none runs as ever."""
        kwargs = kwargs or {}
        operation = OPERATIONS.get(function)
        if operation is not None and torch.is_grad_enabled() and any(map(on_path, (*args, *kwargs.values()))):
            try:
                found = operation(*args, **kwargs)
            except TypeError:  # a form of the call that the rule does not know
                found = NotImplemented
            if found is not NotImplemented:
                return found
        found = function(*args, **kwargs)
        if function in (F.log_softmax, torch.log_softmax, Tensor.log_softmax) and on_path(found):
            self._normalised.append((found, args[0] if args else kwargs["input"]))
        return found

    def at_logits(self, call: CriterionCall) -> CriterionCall:
        """The same call; as a cross entropy of the logits where it is ``nll_loss`` of their ``log_softmax``."""
        for normalised, logits in self._normalised:
            if call.function is F.nll_loss and call.logits is normalised:
                return CriterionCall(F.cross_entropy, logits, call.target, call.arguments)
        return call


def batch_diagonal(run: Callable[[], CriterionCall], weights: list[Tensor]) -> tuple[list[Tensor], CriterionCall]:
    """The diagonal of the Hessian of the criterion, summed over one batch, by the recursion.

    Args:
        run: Computes the model up to its loss, with ``weights`` as the only leaves that require gradients.
        weights: The leaves.

    Returns:
        One tensor for each weight, and the call.

    Raises:
        NoRuleError: An operation on the path has no rule.
    """
    with SecondDerivatives() as mode:
        call = mode.at_logits(run())
        found = curvature(call) if call.function is not F.nll_loss else None
        unknown = unruled(call.logits) + (["a target that depends on the weights"] if on_path(call.target) else [])
        if found is None:
            unknown.append(getattr(call.function, "__name__", type(call.function).__name__))
        if unknown or found is None:
            raise NoRuleError(unknown)
        # Not torch.autograd.grad, which would leave the mode: activation checkpointing runs forwards again in here, and
        # must record the same graph.
        diagonal = torch.autograd.Variable._execution_engine.run_backward(
            (call.logits,),
            (found.diagonal,),
            False,
            False,
            tuple(weights),
            allow_unreachable=True,
            accumulate_grad=False,
        )
    return [torch.zeros_like(w) if h is None else h for w, h in zip(weights, diagonal, strict=True)], call


def unruled(output: Tensor) -> list[str]:
    """Names of the operations that a tensor was computed by and that have no rule, in the order of the network."""
    names: list[str] = []
    seen: set[Any] = set()
    todo: list[tuple[Any, bool]] = [(output.grad_fn, False)]
    while todo:
        node, shared = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        rule = getattr(node, "_forward_cls", None)
        # Quantised values count as if they were the values themselves, and how they were rounded does not matter.
        followed = node.next_functions[:1] if rule is _StraightThrough else node.next_functions
        todo += [(following, rule is Share) for following, _ in followed]
        if not (rule in (*FUNCTIONS, _StraightThrough) or _routes(node) or (shared and _kind(node) in _AVERAGES)):
            names.append(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _kind(node)).lower())
    return list(dict.fromkeys(reversed(names)))


def _kind(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", node.name().removeprefix("torch::autograd::"))


def _routes(node: Any) -> bool:
    """Whether an operation's Jacobian holds only zeros and ones, so that its ordinary backward pass is the rule."""
    name = _kind(node)
    if name == "Add":
        return bool(node._saved_alpha == 1)
    if name == "Embedding":
        return not node._saved_scale_grad_by_freq
    return name in _ROUTING


_AVERAGES = {"Mean", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"}

_ROUTING = set(
    """
    AccumulateGrad CopyBackwards Clone ToCopy Alias Copy
    Relu Threshold Hardtanh Clamp ClampMin ClampMax Hardshrink Softshrink Where MaskedFill Tril Triu
    MaxPool2DWithIndices MaxPool3DWithIndices AdaptiveMaxPool2D AdaptiveMaxPool3D FractionalMaxPool2D
    FractionalMaxPool3D MaxUnpool2D MaxUnpool3D Max Min Maximum Minimum
    View UnsafeView ReshapeAlias Reshape AsStrided Expand Permute Transpose T Squeeze Unsqueeze Unflatten
    Slice Select Split SplitWithSizes UnsafeSplit Unbind Diagonal Unfold Im2Col Col2Im Index IndexSelect Gather
    Cat Stack Repeat Flip Roll ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D
    ReplicationPad1D ReplicationPad2D ReplicationPad3D PixelShuffle PixelUnshuffle ChannelShuffle
    UpsampleNearest1D UpsampleNearest2D UpsampleNearest3D
    UpsampleNearestExact1D UpsampleNearestExact2D UpsampleNearestExact3D Sum
    """.split()  # noqa: SIM905
)
