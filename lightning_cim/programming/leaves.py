"""A model as a function of its mapped weights alone, in eval mode and single precision at least."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from lightning_cim.chip.mapping import Mapping, check_finite
from lightning_cim.chip.population import resolved
from lightning_cim.chip.scope import WeightScope, scope_of
from lightning_cim.chip.transform import Stage

LOW_PRECISION = (torch.bfloat16, torch.float16)


@contextmanager
def weight_leaves(model: nn.Module, mapping: Mapping) -> Iterator[dict[str, Tensor]]:
    """Within the block only the mapped weights require gradients, each as one leaf of the autograd graph.

    Every parameter is replaced by an alias, so that flags, gradients and hooks of the model's own parameters stay what
    they are, whether frozen or not. Parameters and buffers in bfloat16 or float16 are replaced by float32 copies: a
    second derivative is a product of squares, which half precision cannot hold.

    Args:
        model: The module.
        mapping: Which parameters are leaves.

    Yields:
        The leaves by name; tied weights are one leaf.

    Raises:
        ValueError: The mapping does not fit the model, or a weight is NaN or infinite.
    """
    targets = resolved(model, mapping)
    check_finite(model, targets)
    mapped = {id(target.sites[0].parameter) for target in targets}
    aliases: dict[int, Tensor] = {}
    with ExitStack() as undo:
        for module in list(model.modules()):
            if isinstance(module, nn.RNNBase):  # it keeps a list of its weights
                undo.callback(module._init_flat_weights)
            for name, parameter in module._parameters.items():
                if parameter is None:
                    continue
                key = id(parameter)
                if key not in aliases:
                    aliases[key] = _single(parameter.detach()).requires_grad_(key in mapped)
                undo.callback(module._parameters.__setitem__, name, parameter)
                module._parameters[name] = aliases[key]  # type: ignore[assignment]
            for name, buffer in module._buffers.items():
                if buffer is not None and buffer.dtype in LOW_PRECISION:
                    undo.callback(module._buffers.__setitem__, name, buffer)
                    module._buffers[name] = buffer.float()
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()
        yield {target.name: _held(target.sites[0].module, target.sites[0].attribute) for target in targets}


@contextmanager
def without_variation(model: nn.Module) -> Iterator[WeightScope]:
    """The model's weight scope without what programs a chip: opened, it masks and quantises only. Closed afterwards.

    Raises:
        ValueError: The model is on a chip.
    """
    scope = scope_of(model)
    if scope.is_open:
        raise ValueError(
            f"{type(model).__name__} is on a chip; sensitivities belong to the clean weights: leave that block first"
        )
    programs = [link for link in scope.chain if link.stage is Stage.PROGRAM]
    for link in programs:
        scope.remove(link)
    try:
        yield scope
    finally:
        scope.close()
        for link in programs:
            scope.add(link)


def single_precision(batch: Any) -> Any:
    """A batch whose bfloat16 and float16 tensors are float32."""
    return tree_map(lambda leaf: _single(leaf) if isinstance(leaf, Tensor) else leaf, batch)


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in LOW_PRECISION else tensor


def _held(module: nn.Module, attribute: str) -> Tensor:
    held = module._parameters[attribute]
    assert held is not None
    return held
