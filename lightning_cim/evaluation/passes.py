"""One pass over the data for each chip, by a silent Trainer, with every metric that the module logs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from torch import nn
from torch.utils._pytree import tree_leaves

from lightning_cim._data import is_defined, own_loaders
from lightning_cim._enrol import not_enrolling
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.steps import steps_of
from lightning_cim.chip.transform import ChannelsLast, Program
from lightning_cim.evaluation.loaders import borrowed, cached

Stage = Literal["validate", "test"]
_LOADERS = {"validate": "val_dataloader", "test": "test_dataloader"}
_STEPS = {"validate": "validation_step", "test": "test_step"}


class ChipPasses:
    """Runs a module on one chip after another over the same batches.

    Metrics come from ``trainer.validate`` or ``trainer.test`` themselves, so whatever the module logs is there.

    Attributes:
        on_accelerator: Whether the passes run on another device than the CPU.

    Args:
        trainer: Its device, precision, limits and hardware callbacks are taken over; its loggers, progress bars and
            other callbacks are not run. It is not changed.
        model: The LightningModule, outside any fit (inside one, a copy).
        loaders: Batches of the stage, one loader or a collection.
        stage: Which loop.
        datamodule: The datamodule that the loaders came from, for its batch hooks.
    """

    def __init__(self, trainer: Any, model: nn.Module, loaders: Any, stage: Stage, datamodule: Any = None) -> None:
        self._model, self._stage, self._datamodule = model, stage, datamodule
        with quiet(), not_enrolling():  # its callbacks are those of the given Trainer
            self._trainer = _silent(trainer)
        self.on_accelerator = trainer.strategy.root_device.type != "cpu"
        convolutions = any(isinstance(module, nn.Conv2d) for module in model.modules())
        self._channels_last = convolutions and not self.on_accelerator
        self._loaders = cached(loaders, self._channels_last)

    def run(self, chip: Chip) -> dict[str, float]:
        """Metrics of one chip; the module is given back as it was."""
        try:
            return self._pass(chip)
        except RuntimeError as error:
            # Activations follow the weights' layout, and a step that calls .view on them may not take channels-last.
            if not self._channels_last or "view" not in str(error):
                raise
            self._channels_last = False
            for loader in tree_leaves(self._loaders):
                loader.keep_layout()
            return self._pass(chip)

    def _pass(self, chip: Chip) -> dict[str, float]:
        model, scope = self._model, scope_of(self._model)
        program = Program(chip)
        links = [program, ChannelsLast(chip.mapping)] if self._channels_last else [program]
        with ExitStack() as undo:
            undo.callback(setattr, model, "trainer", model._trainer)
            for link in links:
                scope.add(link)
                undo.callback(scope.remove, link)
            steps_of(model).attach(self, model)
            undo.callback(steps_of(model).detach, self)
            scope.hold()
            undo.callback(scope.release)
            loop = getattr(self._trainer, self._stage)
            if self._datamodule is None:
                found = loop(model, self._loaders, verbose=False)
            else:
                undo.enter_context(borrowed(self._datamodule, _LOADERS[self._stage], self._loaders))
                found = loop(model, datamodule=self._datamodule, verbose=False)
        row = {name: float(value) for metrics in found for name, value in metrics.items()}
        if not row:
            raise ValueError(
                f"{type(model).__name__}.{_STEPS[self._stage]} logged no metric, so there is nothing to evaluate over"
                " chips. Call self.log('acc', ...) in it."
            )
        return row


def loaders_of(trainer: Any, model: Any, data: Any, stage: Stage) -> tuple[Any, Any]:
    """The loaders of a stage and the datamodule they come from, if any.

    Args:
        trainer: For datamodules that look at it.
        model: Its own loaders are used when ``data`` is None.
        data: A loader, a collection of loaders, a LightningDataModule or None.
        stage: Which loader.

    Raises:
        ValueError: The module has no such step, or nobody has such a loader.
    """
    step, name = _STEPS[stage], _LOADERS[stage]
    other: Stage = "validate" if stage == "test" else "test"
    if not is_defined(model, step):
        raise ValueError(f"{type(model).__name__} has no {step}; define it, or evaluate with stage={other!r}")
    if data is None:
        loaders = getattr(model, name)() if is_defined(model, name) else None
    elif not hasattr(data, "prepare_data"):
        return data, None
    else:
        data.trainer = trainer
        (loaders,) = own_loaders(data, stage, name)
    if loaders is None:
        source = type(model if data is None else data).__name__
        raise ValueError(f"{source} has no {name}; pass data=, or evaluate with stage={other!r}")
    return loaders, data


def _silent(trainer: Any) -> Any:
    """A Trainer on one device like the given one's, which prints, logs and saves nothing."""
    device = trainer.strategy.root_device
    base = next(
        cls
        for cls in type(trainer).__mro__
        if cls.__module__.endswith("pytorch.trainer.trainer") or cls.__module__ == "pytorch_lightning.trainer.trainer"
    )
    hardware = [
        callback.for_evaluation() for callback in trainer.callbacks if getattr(callback, "simulates_hardware", False)
    ]
    return base(
        accelerator={"cuda": "gpu"}.get(device.type, device.type),
        devices=1 if device.index is None or device.type == "cpu" else [device.index],
        plugins=[trainer.precision_plugin],
        limit_val_batches=trainer.limit_val_batches,
        limit_test_batches=trainer.limit_test_batches,
        callbacks=hardware,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@contextmanager
def quiet() -> Iterator[None]:
    """No banner and no advice from the inner Trainer."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning", "lightning.fabric")]
    loggers += [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith(("lightning.", "pytorch_lightning.")) and logging.getLogger(name).level != logging.NOTSET
    ]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"(lightning|pytorch_lightning)\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
