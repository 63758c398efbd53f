"""Score sets of weights of one module by the k-th percentile over the same simulated chips, on validation data."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cim._compat import MisconfigurationException
from lightning_cim._ranks import same_on_all_ranks
from lightning_cim._undisturbed import isolated_rng
from lightning_cim.callbacks.base import simulate_hardware
from lightning_cim.callbacks.loop_batches import independent, to_device
from lightning_cim.callbacks.offstage import detached_copy, offstage, own_containers
from lightning_cim.callbacks.weight_sets import copy_into, step_arguments
from lightning_cim.chip.interval import SetName
from lightning_cim.chip.mapping import Mapping as CrossbarMapping
from lightning_cim.chip.population import Chip, draw_seed, resolved
from lightning_cim.chip.scope import scope_of
from lightning_cim.evaluation.evaluate import run_chips
from lightning_cim.evaluation.passes import ChipPasses
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.variation.base import Variation, max_abs

Mode = Literal["auto", "min", "max"]


@dataclass(frozen=True)
class Yardstick:
    """By what sets of weights are compared.

    Attributes:
        deployment: What the devices of the deployed chip do to a value.
        chips: How many chips, at least 1. They are validation chips: none of them is among those that
            :func:`evaluate_chips` draws.
        k: The percentile, in per cent, 0 < k < 100.
        monitor: A validation metric; None: the only one that is no loss.
        mode: Whether a higher ("max") or a lower ("min") metric is better; "auto": by its name.
        seed: The population of chips.
        mapping: Which parameters lie on crossbars.
        refresh_batchnorm: Whether batch-norm statistics are collected anew, on clean weights, before scoring.

    Raises:
        MisconfigurationException: A value out of range.
    """

    deployment: Variation
    chips: int = 50
    k: float = 1.0
    monitor: str | None = None
    mode: Mode = "auto"
    seed: int = 0
    mapping: CrossbarMapping = field(default_factory=CrossbarMapping)
    refresh_batchnorm: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.deployment, Variation):
            raise MisconfigurationException(
                f"deployment must be a Variation such as Gaussian(sigma=0.1), got {self.deployment!r}"
            )
        if self.chips < 1 or not 0 < self.k < 100:
            raise MisconfigurationException(
                f"chips must be at least 1 and k lie between 0 and 100, got chips={self.chips}, k={self.k}"
            )
        if self.mode not in ("auto", "min", "max"):
            raise MisconfigurationException(f"mode must be 'auto', 'min' or 'max', got {self.mode!r}")


@dataclass(frozen=True)
class Score:
    """What one set of weights reached.

    Attributes:
        value: The k-th percentile of the metric over chips; NaN if it is NaN on one.
        metric: Which metric.
        lower_is_better: Whether a lower value is better.
        statistics: Batch-norm buffers collected on the clean weights; empty where nothing was refreshed.
    """

    value: float
    metric: str
    lower_is_better: bool
    statistics: dict[str, Tensor]


class Judge:
    """Scores sets of weights on copies of the module, which it has to itself.

    Args:
        trainer: A Trainer in or after a fit; gives data, device, precision and ranks. It is not changed.
        pl_module: The module; not changed.
        yardstick: By what.
        training: The train or eval mode of each of its modules while it trains, which batch norms that a user froze
            depend on; None: all train.
    """

    def __init__(self, trainer: Any, pl_module: Any, yardstick: Yardstick, training: list[bool] | None = None) -> None:
        self._trainer, self._yardstick = trainer, yardstick
        self._module = detached_copy(pl_module).to(trainer.strategy.root_device)
        self._training = [True] * len(list(pl_module.modules())) if training is None else training
        loaders = independent(trainer.val_dataloaders, whole_data=True)
        self._passes = ChipPasses(trainer, self._module, loaders, "validate", trainer.datamodule)

    def scores(self, sets: Mapping[SetName, Mapping[str, Tensor]]) -> dict[SetName, Score]:
        """Score sets on the same chips, data and random numbers.

        Args:
            sets: Parameters and buffers by name, of each set.

        Raises:
            MisconfigurationException: Validation logs no such metric, or several to choose from.
        """
        statistics = self._refreshed(sets) if self._yardstick.refresh_batchnorm else {}
        found = {}
        for name, tensors in sets.items():
            copy_into(self._module, {**tensors, **statistics.get(name, {})})
            found[name] = self._score(statistics.get(name, {}))
        return found

    def _score(self, statistics: dict[str, Tensor]) -> Score:
        yardstick, trainer = self._yardstick, self._trainer
        with self._rng("chips"), same_on_all_ranks(trainer, self._module):
            rows = run_chips(trainer, self._passes, self._chip, yardstick.chips, progress=False)
        lower = {"auto": None, "min": tuple(rows[0]), "max": ()}[yardstick.mode]
        result = ChipResult.from_rows(rows, lower_is_better=lower)
        try:
            metric = yardstick.monitor or _only(result)
            value = result.kpp(metric, yardstick.k).value
        except ValueError as error:
            raise MisconfigurationException(f"monitor={yardstick.monitor!r}: {error}") from error
        return Score(value, metric, result.is_lower_better(metric), statistics)

    def _chip(self, index: int) -> Chip:
        """Validation chip number ``index``."""
        return Chip(self._yardstick.deployment, self._yardstick.seed, index, self._yardstick.mapping, "validation")

    def _rng(self, purpose: str, index: int = 0) -> Any:
        """The same random numbers for every set."""
        return isolated_rng(draw_seed(self._yardstick.seed, f"judge/{self._trainer.global_rank}", index, purpose))

    @torch.no_grad()
    def _refreshed(self, sets: Mapping[SetName, Mapping[str, Tensor]]) -> dict[SetName, dict[str, Tensor]]:
        """Batch-norm buffers of each set: plain averages over one pass over the training data, on clean weights."""
        trainer = self._trainer
        copies = {name: _Refreshed(self._module, tensors, self._training) for name, tensors in sets.items()}
        if not any(one.norms for one in copies.values()):
            return {}
        stage = trainer.state.stage
        with ExitStack() as undo:
            undo.callback(setattr, trainer.state, "stage", stage)
            trainer.training = True
            for one in copies.values():
                simulate_hardware(trainer, one.module, undo)
            undo.enter_context(self._rng("loader"))
            for index, batch in enumerate(training_batches(trainer)):
                for one in copies.values():
                    with self._rng("refresh", index), offstage(one.module, trainer):
                        one.see(trainer, own_containers(batch), index)
        return {name: one.statistics(trainer) for name, one in copies.items()}


class _Refreshed:
    """A copy of the module whose batch-norm layers average over all batches that they see.

    Args:
        module: Copied.
        tensors: The copy's parameters and buffers.
        training: Train or eval mode of each module.
    """

    def __init__(self, module: Any, tensors: Mapping[str, Tensor], training: list[bool]) -> None:
        self.module = detached_copy(module)
        copy_into(self.module, tensors)
        self.norms: dict[str, Tensor] = {}
        for (path, part), mode in zip(self.module.named_modules(), training, strict=True):
            part.training = mode
            if isinstance(part, _BatchNorm) and part.track_running_stats and mode:
                part.reset_running_stats()
                part.momentum = None  # a cumulative average
                self.norms |= {f"{path}.{name}" if path else name: buffer for name, buffer in part.named_buffers()}

    def see(self, trainer: Any, batch: Any, index: int) -> None:
        """One batch, inside the weight scope if hardware is simulated."""
        try:
            with trainer.precision_plugin.train_step_context():
                self.module.training_step(*step_arguments(self.module, batch, index))
        finally:
            scope_of(self.module).close()

    def statistics(self, trainer: Any) -> dict[str, Tensor]:
        """The buffers, averaged over ranks, each of which saw its share of the data."""
        if trainer.world_size == 1:
            return self.norms
        return {
            name: trainer.strategy.reduce(buffer, reduce_op="mean") if buffer.is_floating_point() else buffer
            for name, buffer in self.norms.items()
        }


def _only(result: ChipResult) -> str:
    """The metric that is no loss, where there is one."""
    candidates = [name for name in result.metrics if not result.is_lower_better(name)] or result.metrics
    if len(candidates) > 1:
        raise ValueError(f"which of these validation metrics should it be? {candidates}")
    return candidates[0]


def training_batches(trainer: Any) -> Any:
    """The training data of one epoch (of the part between two validations, where there are several), on the device."""
    combined = trainer.fit_loop._combined_loader
    loader = type(combined)(independent(combined.iterables), combined._mode)
    limits = [limit for limit in (trainer.num_training_batches, trainer.val_check_batch) if limit is not None]
    count = min(limits)
    for batch, _, _ in islice(iter(loader), None if count == float("inf") else int(count)):
        yield to_device(trainer, trainer.lightning_module, batch)


def with_mean_shift(
    module: nn.Module, mapping: CrossbarMapping, tensors: Mapping[str, Tensor], training: Variation
) -> dict[str, Tensor]:
    """The same tensors with E[dW] of the training noise added to every mapped weight.

    Args:
        module: Whose mapped parameters they are.
        mapping: Which parameters lie on crossbars.
        tensors: Parameters and buffers by name.
        training: The training noise; its mean is in units of max|W|.
    """
    shifted = dict(tensors)
    for target in resolved(module, mapping):
        weight = shifted[target.name]
        shifted[target.name] = weight + training.mean * max_abs(weight).to(weight.dtype)
    return shifted
