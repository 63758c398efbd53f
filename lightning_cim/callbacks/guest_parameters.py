"""Parameters that a callback trains beside a module: stepped by its optimizer, absent from its checkpoints."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class GuestParameters:
    """Parameters of a callback in the first group of the module's own optimizer.

    Learning rate, schedule, clipping and gradient scaling are then the optimizer's. A group of their own would break
    schedulers, which count groups. Checkpoints do not see the guests: :meth:`hide_from` takes them out of the optimizer
    states, :meth:`state_dict` holds their own.

    Args:
        guests: The module with the parameters, on the device where it trains.
        trainer: Its optimizers must exist.
        hosts: Parameters of the model; the guests join the optimizer that trains most of them.
    """

    def __init__(self, guests: nn.Module, trainer: Any, hosts: list[torch.Tensor]) -> None:
        self._guests, self._trainer = list(guests.parameters()), trainer
        wanted = {id(parameter) for parameter in hosts}
        optimizers: list[Optimizer] = trainer.optimizers
        self._optimizer = max(
            optimizers, key=lambda one: sum(id(p) in wanted for group in one.param_groups for p in group["params"])
        )
        self._optimizer.param_groups[0]["params"].extend(self._guests)

    def average_gradients(self) -> None:
        """Under DDP, average the guests' gradients over the ranks; call it once before each optimizer step."""
        if self._trainer.world_size == 1:
            return
        for parameter in self._guests:
            if parameter.grad is not None:
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self._trainer.world_size

    def state_dict(self) -> list[Any]:
        """The optimizer's state of each guest."""
        return [self._optimizer.state.get(parameter) for parameter in self._guests]

    def load_state_dict(self, states: list[Any]) -> None:
        """Give the optimizer the guests' states back, on their devices."""
        for parameter, state in zip(self._guests, states, strict=True):
            if state is not None:
                self._optimizer.state[parameter] = {
                    key: value.to(parameter.device) if isinstance(value, torch.Tensor) and value.ndim else value
                    for key, value in state.items()
                }

    def hide_from(self, checkpoint: dict[str, Any]) -> None:
        """Write the optimizer's state into a checkpoint as if the guests were not there."""
        if "optimizer_states" not in checkpoint:
            return
        position = self._trainer.optimizers.index(self._optimizer)
        states = self._leave()
        checkpoint["optimizer_states"][position] = self._trainer.strategy.optimizer_state(self._optimizer)
        self._optimizer.param_groups[0]["params"].extend(self._guests)
        for parameter, state in states.items():
            self._optimizer.state[parameter] = state

    def leave(self) -> None:
        """Take the guests out of the optimizer."""
        self._leave()

    def _leave(self) -> dict[torch.Tensor, Any]:
        gone = {id(parameter) for parameter in self._guests}
        parameters = self._optimizer.param_groups[0]["params"]
        parameters[:] = [parameter for parameter in parameters if id(parameter) not in gone]
        return {p: self._optimizer.state.pop(p) for p in self._guests if p in self._optimizer.state}
