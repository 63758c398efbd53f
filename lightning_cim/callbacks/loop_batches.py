"""The batches of a Trainer's loop, read again without disturbing the loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler


class LoopBatches:
    """Batches as a loop of the Trainer would give them to the module, without disturbing its loaders.

    Args:
        trainer: For its device and precision.
        module: For its batch hooks.
        loaders: One loader or a collection, read one after the other.
        counts: Batches that the loop read of each, per rank; default: all there are.
    """

    def __init__(self, trainer: Any, module: Any, loaders: Any, counts: Any = None) -> None:
        self._trainer, self._module = trainer, module
        self._loaders = [fresh(loader) for loader in tree_leaves(loaders)]
        counts = [math.inf] * len(self._loaders) if counts is None else counts
        self._limits = [None if math.isinf(count) else int(count) * trainer.world_size for count in counts]

    def __iter__(self) -> Iterator[Any]:
        for index, (loader, limit) in enumerate(zip(self._loaders, self._limits, strict=True)):
            for batch in islice(iter(loader), limit):
                batch = self._trainer.precision_plugin.convert_input(batch)
                batch = self._module._on_before_batch_transfer(batch, dataloader_idx=index)
                yield self._trainer.strategy.batch_to_device(batch, dataloader_idx=index)


def fresh(loader: Any) -> Any:
    """The same data in order, from a loader whose workers and random state are not those of the run."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return loader
    options: dict[str, Any] = {"collate_fn": loader.collate_fn, "num_workers": loader.num_workers}
    samplers = (RandomSampler, SequentialSampler, DistributedSampler)
    own = "sampler"
    if loader.batch_size is None and loader.batch_sampler is not None:
        own = "batch_sampler"
    else:
        options["batch_size"] = loader.batch_size
    if own == "sampler" and isinstance(loader.sampler, samplers):
        return DataLoader(loader.dataset, **options)
    # A sampler may hold the data set (kept as it is) and a random state (which the run must find as it was).
    options[own] = copy.deepcopy(getattr(loader, own), {id(loader.dataset): loader.dataset})
    return DataLoader(loader.dataset, **options)
