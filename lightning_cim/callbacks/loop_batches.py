"""The data of a Trainer's loops, read again without disturbing them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, SequentialSampler

from lightning_cim._compat import MisconfigurationException
from lightning_cim._data import whole


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
                yield to_device(self._trainer, self._module, batch, index)


def to_device(trainer: Any, module: Any, batch: Any, dataloader_idx: int = 0) -> Any:
    """A batch as the Trainer hands it to the module: in its precision, through the batch hooks, on its device."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=dataloader_idx)


def fresh(loader: Any) -> Any:
    """The same data in order and whole, from a loader whose workers and random state are not those of the run.

    For figures that must not depend on a shuffling or on the number of ranks, such as a sensitivity or a worst case;
    :func:`independent` instead keeps the order and the rank's share of the running loop.
    """
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


def independent(loaders: Any, whole_data: bool = False) -> Any:
    """Loaders over the same data whose workers, samplers and generators are not those of the running loop.

    Iterating over a loader again while a loop reads from it would restart persistent workers under the loop's feet,
    and draw from the generator that shuffles its next epoch. The copies shuffle as the running loop does, and keep the
    loader's class and the rank's share, because batch-norm statistics and sets of weights are compared on what training
    sees; :func:`fresh` instead gives all data in order.

    Args:
        loaders: One loader or a collection.
        whole_data: All data, where each rank has a share.

    Raises:
        MisconfigurationException: A loader can be read only once.
    """
    return tree_map(lambda loader: _independent(whole(loader) if whole_data else loader), loaders)


def _independent(loader: Any) -> Any:
    if isinstance(loader, Iterator):
        raise MisconfigurationException(
            f"{type(loader).__name__} is an iterator, which can be read only once, but weight sets are compared on data"
            " that is read again: pass a DataLoader, or an object whose __iter__ starts anew"
        )
    other = copy.copy(loader)
    if isinstance(loader, DataLoader):
        mine = (loader.sampler, loader.batch_sampler, loader.generator)
        sampler, batch_sampler, generator = copy.deepcopy(mine, {id(loader.dataset): loader.dataset})
        # A DataLoader lets nobody assign these after it was built.
        other.__dict__.update(
            sampler=sampler, batch_sampler=batch_sampler, generator=generator, persistent_workers=False, _iterator=None
        )
    return other
