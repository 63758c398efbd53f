"""Extra passes through a module that leave no trace in it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_STAND_INS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()


@contextmanager
def no_traces(model: nn.Module, buffers: bool = True) -> Iterator[None]:
    """Within the block, forward passes and steps change no buffer, update no metric and log nothing.

    Buffers (batch-norm statistics) are replaced by copies, torchmetrics by stand-ins, ``self.log`` and
    ``self.log_dict`` by nothing. The module's own Python attributes are its own.

    Args:
        model: The module; its submodules too.
        buffers: Whether buffers are protected; without it batch-norm statistics follow the passes.

    Example:
        >>> import torch
        >>> norm = nn.BatchNorm1d(2)
        >>> with no_traces(norm):
        ...     out = norm(torch.randn(8, 2))
        >>> norm.num_batches_tracked.item()
        0
    """
    with ExitStack() as undo:
        silent: set[int] = set()  # parts of a metric, which its stand-in stands for
        for module in list(model.modules()):
            if id(module) in silent:
                continue
            for name, buffer in module._buffers.items():
                if buffer is not None and buffers:
                    undo.callback(module._buffers.__setitem__, name, buffer)
                    module._buffers[name] = buffer.clone()
            for name, child in module._modules.items():
                if child is not None and _is_metric(child):
                    silent |= {id(part) for part in child.modules()}
                    stand_in = _stand_in(child)
                    undo.callback(stand_in.reset)
                    undo.callback(module._modules.__setitem__, name, child)
                    module._modules[name] = stand_in
            if hasattr(module, "log_dict"):
                for name in ("log", "log_dict"):
                    _shadow(undo, module, name, _nothing)
        yield


def _shadow(undo: ExitStack, module: nn.Module, name: str, value: Any) -> None:
    """Set an instance attribute that hides the class's, until the stack unwinds."""
    if name in module.__dict__:
        undo.callback(module.__dict__.__setitem__, name, module.__dict__[name])
    else:
        undo.callback(module.__dict__.pop, name)
    module.__dict__[name] = value


def _nothing(*args: object, **kwargs: object) -> None:
    """What a silent module logs."""


def _is_metric(module: nn.Module) -> bool:
    return any(cls.__module__.partition(".")[0] == "torchmetrics" for cls in type(module).__mro__)


def _stand_in(metric: nn.Module) -> Any:
    """A copy that takes the updates of silent passes; made once, because copying a metric costs more than a layer."""
    stand_in = _STAND_INS.get(metric)
    if stand_in is None:
        stand_in = copy.deepcopy(metric)
        stand_in.reset()  # type: ignore[operator]
        _STAND_INS[metric] = stand_in
    device = _device(metric)
    return stand_in if device is None or device == _device(stand_in) else stand_in.to(device)


def _device(metric: nn.Module) -> Any:
    return next((part.device for part in metric.modules() if hasattr(part, "device")), None)
