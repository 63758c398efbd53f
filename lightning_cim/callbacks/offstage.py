"""Run a copy of a LightningModule inside somebody else's fit: with the Trainer at hand, but unseen and unheard."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torchmetrics import Metric

from lightning_cim._compat import CallbackBase
from lightning_cim._compiled import run_eagerly
from lightning_cim.callbacks.base import refuse_sharding


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
    with torch.inference_mode(False):  # a loop's end may run in it
        module = copy.deepcopy(pl_module)
    run_eagerly(module)
    for part in module.modules():
        if isinstance(part, Metric):
            part.reset()
    return module


class CopyingCallback(CallbackBase):
    """Copies the module as a validation or test loop sees it, for what is done with the copy at the loop's end."""

    _model: Any = None

    def is_due(self, trainer: Any) -> bool:
        """Whether this validation is one to copy for; tests always are."""
        raise NotImplementedError

    def take_copy(self) -> Any:
        """The copy, which is then forgotten; None if there was no batch."""
        model, self._model = self._model, None
        return model

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse strategies that shard or flatten parameters, before anything runs."""
        refuse_sharding(self, trainer)

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Copy at the first batch: weight averaging takes its averages away before the epoch's end."""
        if self._model is None and self.is_due(trainer):
            self._model = detached_copy(pl_module)

    def on_test_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Copy at the first batch."""
        if self._model is None:
            self._model = detached_copy(pl_module)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Forget the copy."""
        self._model = None


def own_containers(batch: Any) -> Any:
    """The same tensors in containers of their own, for steps that take their batch apart (``batch.pop("labels")``)."""
    return tree_map(lambda leaf: leaf if isinstance(leaf, Tensor) else copy.copy(leaf), batch)
