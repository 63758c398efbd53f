"""Passes over data outside a Trainer: reading batches, and a module that is in eval mode for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_cim.evaluation.loaders import CachedLoader, whole
from lightning_cim.evaluation.passes import isolated_rng

_BATCH = 256


class Batches:
    """The same batches at every pass, read once if they fit in memory; to be read inside :func:`evaluating`.

    A step that draws numbers draws the same ones for a batch at every pass.

    Args:
        data: A loader, any other iterable of batches, or a map-style data set, which is read 256 samples at a time.
        limit: Batches to read at most.

    Raises:
        ValueError: Something that gives no batches, or a limit below 1.
    """

    def __init__(self, data: Any, limit: int | None = None) -> None:
        if limit is not None and limit < 1:
            raise ValueError(f"max_batches must be at least 1, got {limit}")
        if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
            data = DataLoader(data, batch_size=_BATCH)
        if not hasattr(data, "__iter__"):
            raise ValueError(f"data must be a loader, an iterable of batches or a data set, got {type(data).__name__}")
        self._loader, self._limit = CachedLoader(whole(data)), limit

    def __iter__(self) -> Iterator[Any]:
        for index, batch in enumerate(islice(iter(self._loader), self._limit)):
            torch.manual_seed(index)  # reading a loader draws numbers too, and only the first pass reads it
            yield batch


def is_defined(source: Any, name: str) -> bool:
    """Whether a module or datamodule has a loader of its own; Lightning's base classes only declare the methods."""
    hook = getattr(source, name, None)
    return hook is not None and not hook.__module__.startswith(("lightning.", "pytorch_lightning."))


def loader_of(data: Any, name: str, stage: str) -> Any:
    """A datamodule's loader, None if it has no such one; anything else is returned as it is.

    Args:
        data: A LightningDataModule, or data.
        name: Such as ``"train_dataloader"``.
        stage: What the datamodule is set up for.
    """
    if not hasattr(data, "prepare_data"):
        return data
    if not is_defined(data, name):
        return None
    data.prepare_data()
    data.setup(stage)
    return getattr(data, name)()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The module in eval mode, with a random state of its own; afterwards each submodule's mode is what it was.

    The random state starts anew in each block, so that a loader that shuffles gives the same order.
    """
    modes = [(module, module.training) for module in model.modules()]
    with ExitStack() as undo:
        undo.enter_context(isolated_rng())
        for module, mode in modes:
            undo.callback(setattr, module, "training", mode)
        model.eval()
        torch.manual_seed(0)
        undo.enter_context(torch.inference_mode(False))
        yield
