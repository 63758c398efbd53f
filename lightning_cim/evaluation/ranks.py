"""One model on all ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def same_on_all_ranks(trainer: Any, model: nn.Module) -> Iterator[None]:
    """Give every rank the parameters and buffers of rank 0; afterwards each has its own back.

    Ranks differ when no fit came before and the initial weights were not seeded, and after a fit in the running
    statistics of batch norm, which every rank takes from its own share of the data. Chips spread over such ranks would
    be chips of different models.

    Args:
        trainer: Its strategy broadcasts; with one process nothing happens.
        model: Outside any scope.
    """
    if trainer.world_size == 1:
        yield
        return
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    own = [tensor.cpu().clone() for tensor in tensors]
    _fill(tensors, trainer.strategy.broadcast(own))
    try:
        yield
    finally:
        _fill(tensors, own)


def _fill(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
