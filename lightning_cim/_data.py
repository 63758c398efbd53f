"""Data that is read once and passed over often, and loaders from whatever a user has. Any room may use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

BUDGET = 2 * 2**30
"""Bytes of batches kept in memory; a larger data set is read again at every pass."""


class CachedLoader:
    """Iterates over a loader once and over the batches it gave from then on.

    A step that changes its batch in place would feed the changed batch to the next chip; this is noticed by the
    tensors' version counters, and the loader is then read anew at every pass.

    Args:
        loader: Any iterable of batches.
        budget: Bytes to keep at most.
        channels_last: Lay images (4-D floating tensors) out channels-last, as the convolutions of the first layer want
            them; their values and shapes stay what they are.

    Attributes:
        is_complete: Whether every batch is kept, so that the loader is not read again.
    """

    def __init__(self, loader: Iterable[Any], budget: int = BUDGET, channels_last: bool = False) -> None:
        self._loader = loader
        self._budget = budget
        self._channels_last = channels_last
        self._cacheable = True
        self.is_complete = False
        self._batches: list[Any] = []
        self._versions: list[list[int]] = []
        self._size = 0
        self._source: Iterator[Any] | None = None

    def __iter__(self) -> Iterator[Any]:
        if [_versions(batch) for batch in self._batches] != self._versions:
            self._stop_caching()
        yield from self._batches
        # Behind the kept batches goes on whatever iterator gave them, also when the last pass stopped early
        # (limit_test_batches); without a cache every pass has an iterator of its own.
        source = self._source if self._cacheable else None
        # Lightning iterates in inference mode, whose tensors have no version counter.
        with torch.inference_mode(False):
            source = iter(self._loader) if source is None else source
        self._source = source if self._cacheable else None
        while True:
            with torch.inference_mode(False):
                try:
                    batch = next(source)
                except StopIteration:
                    self.is_complete = self._cacheable
                    return
                batch = tree_map(_channels_last, batch) if self._channels_last else batch
            if self._cacheable:
                self._keep(batch)
            yield batch

    def keep_layout(self) -> None:
        """Read the loader again, and leave images in their own layout."""
        self._channels_last = False
        self.forget()

    def forget(self) -> None:
        """Read the loader again."""
        self._source, self.is_complete = None, False
        self._batches, self._versions, self._size = [], [], 0

    def _keep(self, batch: Any) -> None:
        self._size += sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor))
        if self._size > self._budget:
            self._stop_caching()
            return
        self._batches.append(batch)
        self._versions.append(_versions(batch))

    def _stop_caching(self) -> None:
        self._cacheable = False
        self.forget()

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]


def whole(loader: Any) -> Any:
    """The same loader over the whole data set, where Lightning gave each rank a share."""
    if not isinstance(loader, DataLoader) or not isinstance(loader.sampler, DistributedSampler):
        return loader
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        pin_memory=loader.pin_memory,
    )


def is_defined(source: Any, name: str) -> bool:
    """Whether a user's class or instance defines a method that Lightning's base classes only declare.

    The loaders that ``LightningDataModule.from_datasets`` puts on an instance are Lightning's functions too, but local
    ones.
    """
    places = (getattr(source, "__dict__", {}), *(cls.__dict__ for cls in type(source).__mro__))
    hook = next((place[name] for place in places if name in place), None)
    # A class that was made by exec may have no module.
    declared = hook is not None and (hook.__module__ or "").startswith(("lightning.", "pytorch_lightning."))
    return hook is not None and (not declared or "<locals>" in hook.__qualname__)


def own_loaders(source: Any, stage: str, *names: str) -> list[Any]:
    """Loaders of a datamodule, or of a module that prepares its data itself, which is done once for all of them.

    Args:
        source: It has ``prepare_data`` and ``setup``.
        stage: What it is set up for.
        names: Such as ``"train_dataloader"``.

    Returns:
        What each of these methods gives, asked in this order; None for those that it does not define.
    """
    mine = [is_defined(source, name) for name in names]
    if any(mine):
        source.prepare_data()
        source.setup(stage)
    return [getattr(source, name)() if defined else None for name, defined in zip(names, mine, strict=True)]


def _channels_last(leaf: Any) -> Any:
    image = isinstance(leaf, torch.Tensor) and leaf.ndim == 4 and leaf.is_floating_point()
    return leaf.contiguous(memory_format=torch.channels_last) if image else leaf


def _versions(batch: Any) -> list[int]:
    return [leaf._version for leaf in tree_leaves(batch) if isinstance(leaf, torch.Tensor) and not leaf.is_inference()]
