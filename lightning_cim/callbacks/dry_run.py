"""One silent pass through a LightningModule before it is trained, to see its stages."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from lightning_cim._undisturbed import evaluating
from lightning_cim.chip.criterion import CriterionSpy, takes_index
from lightning_cim.chip.traces import no_traces

T = TypeVar("T")


def traced(trainer: Any, pl_module: Any, trace: Callable[[Callable[[], Any]], T]) -> T:
    """Let somebody watch one silent pass, in eval mode, without gradients and with a random state of its own.

    The pass is ``forward`` on the module's ``example_input_array`` if it has one, else ``training_step`` on the first
    training batch, up to the loss.

    Args:
        trainer: In its ``setup``, so that the training data is there.
        pl_module: The module, which the Trainer knows.
        trace: Gets a function that makes the pass.

    Returns:
        What ``trace`` returned.
    """
    example = getattr(pl_module, "example_input_array", None)
    with evaluating(pl_module), no_traces(pl_module), torch.no_grad():
        if example is not None:
            return trace(partial(_call, pl_module, example))
        batch = trainer.strategy.batch_to_device(_first_batch(trainer), pl_module.device)
        step = partial(pl_module.training_step, batch, *((0,) if takes_index(pl_module.training_step) else ()))
        try:
            return trace(partial(_to_the_loss, pl_module, step))
        except ValueError:  # a loss that the spy refuses
            if not pl_module.automatic_optimization:
                raise
            return trace(step)


def _first_batch(trainer: Any) -> Any:
    """The first training batch, wherever the loader comes from; a collection gives one batch of each."""
    loaders = trainer.fit_loop._data_source.dataloader()
    if hasattr(loaders, "flattened"):  # a CombinedLoader
        return _peek(loaders)[0]
    if isinstance(loaders, (list, tuple)):
        return [_peek(loader) for loader in loaders]
    if isinstance(loaders, dict):
        return {name: _peek(loader) for name, loader in loaders.items()}
    return _peek(loaders)


def _peek(loader: Any) -> Any:
    """One batch; a loader that remembers its place is put back to it."""
    stateful = hasattr(loader, "state_dict") and hasattr(loader, "load_state_dict")
    place = copy.deepcopy(loader.state_dict()) if stateful else None
    batch = next(iter(loader))
    if stateful:
        loader.load_state_dict(place)
    return batch


def _call(model: Any, example: Any) -> None:
    example = tree_map(lambda leaf: leaf.to(model.device) if isinstance(leaf, Tensor) else leaf, example)
    if isinstance(example, dict):
        model(**example)
    elif isinstance(example, tuple):
        model(*example)
    else:
        model(example)


def _to_the_loss(model: Any, step: Callable[[], Any]) -> None:
    with CriterionSpy(model, stop=True):
        step()
