"""Run a copy of a LightningModule inside somebody else's fit: with the Trainer at hand, but unseen and unheard."""

from __future__ import annotations

import copy
import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader
from torchmetrics import Metric

from lightning_cim._compat import MisconfigurationException
from lightning_cim.evaluation.loaders import whole
from lightning_cim.evaluation.passes import isolated_rng


@contextmanager
def own_rng(seed: int) -> Iterator[None]:
    """Torch's, numpy's and Python's random state from a seed; outside, all are as if nothing ran inside."""
    with isolated_rng():
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        yield


@contextmanager
def offstage(module: Any, trainer: Any) -> Iterator[None]:
    """Lend a copy of the module the Trainer: it can look at everything, and what it logs or prints has no effect.

    Metrics forget what they were fed, so that none that collect their inputs grow.
    """
    modules = [part for part in module.modules() if hasattr(part, "_current_fx_name")]
    names = ("log", "log_dict", "print")
    module.trainer = _WithoutLoggers(trainer)
    try:
        for part in modules:
            part.__dict__.update(dict.fromkeys(names, _nothing))
        yield
    finally:
        module.trainer = None
        for part in modules:
            for name in names:
                part.__dict__.pop(name, None)
        for part in module.modules():
            if isinstance(part, Metric):
                part.reset()


def _nothing(*_: Any, **__: Any) -> None:
    """Log nothing."""


class _WithoutLoggers:
    """A Trainer whose loggers write nowhere; what is set on it stays here."""

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        dummy = importlib.import_module(f"{flavour_of(trainer)}.loggers.logger").DummyLogger
        self.loggers = [dummy() for _ in trainer.loggers]
        self.logger = self.loggers[0] if self.loggers else None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)


def flavour_of(trainer: Any) -> str:
    """``lightning.pytorch`` or ``pytorch_lightning``: the package that a Trainer is of."""
    home = next(cls.__module__ for cls in type(trainer).__mro__ if cls.__module__.endswith(".trainer.trainer"))
    return home.removesuffix(".trainer.trainer")


def detached_copy(pl_module: Any) -> Any:
    """A copy that knows no Trainer and whose metrics have seen nothing."""
    module = copy.deepcopy(pl_module)
    for part in module.modules():
        if isinstance(part, Metric):
            part.reset()
    return module


def own_containers(batch: Any) -> Any:
    """The same tensors in containers of their own, for steps that take their batch apart (``batch.pop("labels")``)."""
    return tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else copy.copy(leaf), batch)


def independent(loaders: Any, whole_data: bool = False) -> Any:
    """Loaders over the same data whose workers, samplers and generators are not those of the running loop.

    Iterating over a loader again while a loop reads from it would restart persistent workers under the loop's feet,
    and draw from the generator that shuffles its next epoch.

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
