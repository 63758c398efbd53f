"""A second set of weights that trains beside the user's module, batch for batch, with its own optimizer."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim._compat import MisconfigurationException
from lightning_cim._undisturbed import isolated_rng
from lightning_cim.callbacks.base import simulate_hardware
from lightning_cim.callbacks.offstage import detached_copy, flavour_of, offstage, own_containers
from lightning_cim.callbacks.variation_injection import SwitchedProgram
from lightning_cim.chip.population import Chip, draw_seed
from lightning_cim.chip.scope import scope_of


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, detached; they share memory with the module."""
    found = [*module.named_parameters(), *module.named_buffers()]
    return {name: tensor.detach() for name, tensor in found}


def copy_into(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Overwrite parameters and buffers in place; optimizers and ties stay what they are."""
    own = tensors_of(module)
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


class Twin:
    """A copy of the user's module that makes one step of its own on every batch.

    It lives through the module's hooks of training (``on_train_start``, ``on_train_epoch_start``,
    ``on_train_batch_start``, ``training_step``, ``backward``, ``on_before_optimizer_step``,
    ``configure_gradient_clipping``, ``optimizer_step``, ``lr_scheduler_step``, ``on_train_batch_end``, ...), logs
    nothing, and has its own random numbers, so that the user's module trains as if it were alone.

    Args:
        trainer: The running Trainer; not kept.
        pl_module: The module to copy.
        name: Tells the sets' random numbers apart.
        seed: Of the random numbers.
        chip: A chip to begin with.

    Attributes:
        module: The copy.
    """

    def __init__(self, trainer: Any, pl_module: Any, name: str, seed: int, chip: Chip) -> None:
        self.name, self.seed = name, seed
        self.module = detached_copy(pl_module)
        self._program = SwitchedProgram(chip, keep=False)
        self._hardware: ExitStack | None = None
        self._has_gradients = False
        scope_of(self.module).add(self._program)
        configure = importlib.import_module(f"{flavour_of(trainer)}.core.optimizer")._init_optimizers_and_lr_schedulers
        with self._rng(trainer, 0, "configure"), offstage(self.module, trainer):
            (self._optimizer,), self._schedulers = configure(self.module)

    def take_over(self, trainer: Any) -> None:
        """Go on from where the Trainer's optimizer and schedulers are."""
        self._optimizer.load_state_dict(copy.deepcopy(trainer.optimizers[0].state_dict()))
        for own, other in zip(self._schedulers, trainer.lr_scheduler_configs, strict=True):
            own.scheduler.load_state_dict(copy.deepcopy(other.scheduler.state_dict()))

    def call(self, trainer: Any, hook: str, *args: Any) -> None:
        """Call a hook of the module."""
        with self._rng(trainer, trainer.current_epoch, hook), offstage(self.module, trainer):
            getattr(self.module, hook)(*args)

    def step(self, trainer: Any, batch: Any, batch_idx: int, chip: Chip) -> None:
        """Everything that automatic optimisation does with one batch, for this set.

        Args:
            trainer: The running Trainer: its precision, accumulation, clipping and ranks.
            batch: What the user's module was given.
            batch_idx: Its number in the epoch.
            chip: Compute on this chip.

        Raises:
            MisconfigurationException: No gradient reached the copy's weights.
        """
        if self._hardware is None:  # ranges of activations are known once the user's module saw a batch
            self._hardware = ExitStack()
            simulate_hardware(trainer, self.module, self._hardware)
        self._program.switch_to(chip)
        last = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        steps = last or (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        with self._rng(trainer, chip.index, "step"), offstage(self.module, trainer):
            outputs: dict[str, Any] = {}
            self.module.on_train_batch_start(own_containers(batch), batch_idx)

            def closure() -> Any:
                return self._closure(trainer, batch, batch_idx, steps, outputs)

            if steps:
                self.module.optimizer_step(trainer.current_epoch, batch_idx, self._optimizer, closure)
                self._step_schedulers("step", batch_idx)
            else:
                closure()
            if last:
                self._step_schedulers("epoch", trainer.current_epoch)
            self.module.on_train_batch_end(outputs, own_containers(batch), batch_idx)

    def step_on_plateau(self, trainer: Any, interval: str, index: int) -> None:
        """Step the schedulers that look at a metric; they see the Trainer's, which are those of the common winner."""
        with offstage(self.module, trainer):
            self._step_schedulers(interval, index, trainer.callback_metrics)

    def leave(self) -> None:
        """Take hooks and links off, so that nothing outlives the set."""
        if self._hardware is not None:
            self._hardware.close()
            self._hardware = None
        scope_of(self.module).remove(self._program)

    def state_dict(self) -> dict[str, Any]:
        """Weights, buffers, optimizer and schedulers."""
        return {
            "tensors": tensors_of(self.module),
            "optimizer": self._optimizer.state_dict(),
            "schedulers": [config.scheduler.state_dict() for config in self._schedulers],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` gave."""
        copy_into(self.module, state_dict["tensors"])
        self._optimizer.load_state_dict(state_dict["optimizer"])
        for config, state in zip(self._schedulers, state_dict["schedulers"], strict=True):
            config.scheduler.load_state_dict(state)

    def _rng(self, trainer: Any, index: int, purpose: str) -> Any:
        return isolated_rng(draw_seed(self.seed, f"{self.name}/{trainer.global_rank}", index, purpose))

    def _closure(self, trainer: Any, batch: Any, batch_idx: int, steps: bool, outputs: dict[str, Any]) -> Any:
        module, scope = self.module, scope_of(self.module)
        outputs.clear()
        scope.open()
        try:
            with trainer.precision_plugin.train_step_context():
                output = module.training_step(*step_arguments(module, own_containers(batch), batch_idx))
            loss = output["loss"] if isinstance(output, Mapping) else output
            if batch_idx % trainer.accumulate_grad_batches == 0:
                module.on_before_zero_grad(self._optimizer)
                module.optimizer_zero_grad(trainer.current_epoch, batch_idx, self._optimizer)
            if loss is not None:
                outputs.update(output if isinstance(output, Mapping) else {}, loss=loss.detach())
                loss = loss / trainer.accumulate_grad_batches
                module.on_before_backward(loss)
                module.backward(loss)
        finally:
            scope.close()
        if loss is not None:
            self._check_gradients()
            module.on_after_backward()
        if steps:
            average_gradients(trainer, list(module.parameters()))
            module.on_before_optimizer_step(self._optimizer)
            module.configure_gradient_clipping(
                self._optimizer, trainer.gradient_clip_val, trainer.gradient_clip_algorithm
            )
        return loss

    def _check_gradients(self) -> None:
        if self._has_gradients:
            return
        self._has_gradients = any(parameter.grad is not None for parameter in self.module.parameters())
        if not self._has_gradients:
            raise MisconfigurationException(
                f"RightCensoredTraining trains copies of {type(self.module).__name__}, and no gradient reached the"
                " weights of a copy: its training_step computes with something that copy.deepcopy does not copy, such"
                " as a lambda or a compiled function that refers to self. Make that a method of the module."
            )

    def _step_schedulers(self, interval: str, index: int, metrics: Mapping[str, Any] | None = None) -> None:
        for config in self._schedulers:
            if config.interval != interval or (index + 1) % config.frequency:
                continue
            if not config.reduce_on_plateau and metrics is None:
                self.module.lr_scheduler_step(config.scheduler, None)
            elif config.reduce_on_plateau and metrics is not None and config.monitor in metrics:
                self.module.lr_scheduler_step(config.scheduler, metrics[config.monitor])


def step_arguments(module: Any, batch: Any, batch_idx: int) -> tuple[Any, ...]:
    """What a ``training_step`` is called with: Lightning lets it leave the batch's number out."""
    named = [
        parameter
        for parameter in inspect.signature(module.training_step).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD, parameter.VAR_POSITIONAL)
    ]
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in named)
    return (batch, batch_idx) if variadic or len(named) > 1 else (batch,)


def average_gradients(trainer: Any, parameters: list[nn.Parameter]) -> None:
    """Mean over ranks of every gradient that some rank has, in one message; what DDP does for the user's module."""
    if trainer.world_size == 1:
        return
    device = trainer.strategy.root_device
    has = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=device)
    somewhere = trainer.strategy.reduce(has, reduce_op="sum").tolist()
    used = [parameter for parameter, ranks in zip(parameters, somewhere, strict=True) if ranks]
    if not used:
        return
    grads = [torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in used]
    mean = trainer.strategy.reduce(torch.cat([grad.reshape(-1) for grad in grads]), reduce_op="mean")
    for parameter, part in zip(used, mean.split([grad.numel() for grad in grads]), strict=True):
        parameter.grad = part.view_as(parameter).to(parameter.dtype)


def same_buffers_on_all_ranks(trainer: Any, module: nn.Module) -> None:
    """Give every rank the buffers of rank 0; each took its own from its share of the data."""
    buffers = dict(module.named_buffers())
    if trainer.world_size == 1 or not buffers:
        return
    own = {name: buffer.detach().cpu() for name, buffer in buffers.items()}
    copy_into(module, trainer.strategy.broadcast(own))
