"""Work that the ranks of a Trainer share. Any room may use it; a single process is one rank."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import distributed, nn

PATIENCE = timedelta(days=1)
"""How long a rank that is done waits for the others: shares take unequal time, and the groups that training uses give
up after ten minutes (nccl) or thirty (gloo)."""

Share = TypeVar("Share")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ranks:
    """The processes that share the work of one call.

    Attributes:
        rank: Of this process.
        count: How many there are.
        group: Over which they talk; None for one.

    Example:
        >>> Ranks().gather("mine")
        ['mine']
    """

    rank: int = 0
    count: int = 1
    group: Any = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes what all share."""
        return self.rank == 0

    def share(self, jobs: list[Share]) -> list[Share]:
        """The jobs of this rank, of a list that is the same on all.

        Example:
            >>> Ranks(rank=1, count=3).share([10, 20, 30, 40, 50])
            [20, 50]
        """
        return jobs[self.rank :: self.count]

    def gather(self, share: Share) -> list[Share]:
        """What each rank gives, by rank. All of them have to call it."""
        if self.count == 1:
            return [share]
        shares: list[Any] = [None] * self.count
        distributed.all_gather_object(shares, share, group=self.group)
        return shares

    def of_first(self, value: Share) -> Share:
        """What rank 0 gives. All of them have to call it."""
        if self.count == 1:
            return value
        values: list[Any] = [value if self.is_first else None]
        distributed.broadcast_object_list(values, src=0, group=self.group)
        first: Share = values[0]
        return first

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails on every rank where it fails on one, once all have come to its end.

        Ranks must not talk inside of it. Without it the others would wait for a rank that never comes.

        Raises:
            RuntimeError: Another rank failed; says which, and why.
        """
        try:
            yield
        except Exception as error:
            if self.count > 1:
                told = f"{type(error).__name__}: {error}"
                logger.error("rank %d failed: %s. The other ranks end their shares, then stop too.", self.rank, told)
                with suppress(Exception):  # some may be gone; what counts is this error
                    self.gather(told)
            raise
        found = self.gather("")
        failed = [f"rank {rank} failed: {told}" for rank, told in enumerate(found) if told]
        if failed:
            raise RuntimeError("; ".join(failed))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A block in which this process seems to be no rank.

        Metrics of torchmetrics, and steps by hand, add up over ranks wherever a process group exists; here each rank
        runs other chips, and another number of them, over all of the data.
        """
        if self.count == 1:
            yield
            return
        known = distributed.is_initialized
        distributed.is_initialized = lambda: False
        try:
            yield
        finally:
            distributed.is_initialized = known


ONE = Ranks()
"""This process alone."""


@contextmanager
def ranks_of(trainer: Any | None) -> Iterator[Ranks]:
    """The ranks of a Trainer, started where no fit did it before.

    Args:
        trainer: None: this process alone.

    Raises:
        ValueError: A strategy whose processes live only as long as a fit.
    """
    if trainer is None or trainer.world_size == 1:
        yield ONE
        return
    if not distributed.is_initialized():
        trainer.strategy.launcher.launch(trainer.strategy.setup_environment, trainer=trainer)
    if not distributed.is_initialized():
        raise ValueError(
            f"{type(trainer.strategy).__name__} starts its processes for one call and ends them, so they cannot share"
            " chips; use strategy='cim_ddp' or 'ddp' in a script, or one device"
        )
    # A group of its own, on the CPU: rows are Python objects, and waiting for slower ranks must not end in a timeout.
    backend = "gloo" if distributed.is_gloo_available() else None
    group = distributed.new_group(backend=backend, timeout=PATIENCE)
    try:
        yield Ranks(trainer.global_rank, trainer.world_size, group)
    finally:
        distributed.destroy_process_group(group)


@contextmanager
def same_on_all_ranks(trainer: Any, model: nn.Module) -> Iterator[None]:
    """Give every rank the parameters and buffers of rank 0; afterwards each has its own back.

    Ranks differ when no fit came before and the initial weights were not seeded, and after a fit in the running
    statistics of batch norm, which every rank takes from its own share of the data. Chips spread over such ranks would
    be chips of different models.

    Args:
        trainer: Its strategy broadcasts; with one process, or None, nothing happens.
        model: Outside any scope.
    """
    if trainer is None or trainer.world_size == 1:
        yield
        return
    tensors = [tensor.detach() for tensor in (*model.parameters(), *model.buffers())]
    own = [tensor.cpu().clone() for tensor in tensors]
    _fill(tensors, trainer.strategy.broadcast(own))
    try:
        yield
    finally:
        _fill(tensors, own)


def _fill(tensors: list[torch.Tensor], values: list[torch.Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
