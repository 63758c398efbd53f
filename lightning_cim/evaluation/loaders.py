"""Batches for one chip after another: cached collections of loaders, and passes outside a Trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from lightning_cim._data import CachedLoader, own_loaders, whole

_BATCH = 256


def cached(loaders: Any, channels_last: bool = False) -> Any:
    """Cache every loader of a collection, or the single one."""
    if isinstance(loaders, (list, tuple)):
        return [cached(loader, channels_last) for loader in loaders]
    if isinstance(loaders, dict):
        return {name: cached(loader, channels_last) for name, loader in loaders.items()}
    return CachedLoader(whole(loaders), channels_last=channels_last)


class Batches:
    """The same batches at every pass, read once if they fit in memory; to be read inside ``evaluating``.

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


def loader_of(data: Any, name: str, stage: str) -> Any:
    """A datamodule's loader, None if it has no such one; anything else is returned as it is.

    Args:
        data: A LightningDataModule, or data.
        name: Such as ``"train_dataloader"``.
        stage: What the datamodule is set up for.
    """
    return own_loaders(data, stage, name)[0] if hasattr(data, "prepare_data") else data


@contextmanager
def borrowed(datamodule: Any, name: str, loaders: Any) -> Iterator[None]:
    """Let an inner Trainer use a datamodule for its batch hooks, with these loaders and without setting it up again."""

    def nothing(stage: str | None = None) -> None:
        """The data is there already."""

    replaced = {name: lambda: loaders, "setup": nothing, "teardown": nothing, "prepare_data": nothing}
    before = {key: datamodule.__dict__[key] for key in replaced if key in datamodule.__dict__}
    trainer = datamodule.trainer
    datamodule.__dict__.update(replaced)
    try:
        yield
    finally:
        for key in replaced:
            del datamodule.__dict__[key]
        datamodule.__dict__.update(before)
        datamodule.trainer = trainer
