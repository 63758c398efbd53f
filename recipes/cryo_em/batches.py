"""Batches of particles for training and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.cryo_em.ctf import ctf
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import chunks

Batch = dict[str, Tensor]


def batch_of(particles: Particles, rows: Tensor) -> Batch:
    """Some particles as a model takes them.

    Returns:
        ``image`` (b, D, D), ``rotation`` (b, 3, 3), ``shift`` (b, 2) [pixels], ``ctf`` (b, D, D//2 + 1) unless the
        particles have none, and ``index`` (b,), which is ``rows``.
    """
    batch = {
        "image": particles.images[rows],
        "rotation": particles.rotations[rows],
        "shift": particles.shifts[rows],
        "index": rows,
    }
    if particles.ctf is not None:
        batch["ctf"] = ctf(particles.ctf[rows], particles.size, particles.pixel_size)
    return batch


class InOrder:
    """Batches of the given rows, in order.

    Args:
        particles: All particles.
        rows: Which of them.
        batch_size: Of all batches but perhaps the last.
    """

    def __init__(self, particles: Particles, rows: Tensor, batch_size: int) -> None:
        self.particles, self.parts = particles, chunks(rows, batch_size)

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        for rows in self.parts:
            yield batch_of(self.particles, rows)


class Shuffled:
    """Training batches, each a pure function of (seed, epoch, rank, batch): a resumed run sees what it would have seen.

    Ranks take every world-size-th particle. Of an epoch's last rows those that fill no batch are left out; another
    epoch's order leaves out others. `state_dict` lets Lightning resume in the middle of an epoch.

    Args:
        particles: All particles.
        rows: Those to train on.
        batch_size: Of every batch; of fewer rows than that, all are one batch.
        seed: Of the orders.
        place: Gives (epoch, rank, world size); the epoch is None outside a Trainer, where each pass is the next one.
    """

    def __init__(
        self,
        particles: Particles,
        rows: Tensor,
        batch_size: int,
        seed: int,
        place: Callable[[], tuple[int | None, int, int]],
    ) -> None:
        self.particles, self.rows, self.batch_size, self.seed, self.place = particles, rows, batch_size, seed, place
        self._position = {"epoch": 0, "batch": 0}
        self._resume_at = {"epoch": -1, "batch": 0}
        self._passes = 0

    def __len__(self) -> int:
        return max(len(self.rows) // self.place()[2] // self.batch_size, 1)

    def __iter__(self) -> Iterator[Batch]:
        epoch, rank, world = self.place()
        epoch = self._passes if epoch is None else epoch
        self._passes += 1
        order = torch.from_numpy(np.random.default_rng([self.seed, epoch]).permutation(len(self.rows)))
        mine = self.rows[order[rank : len(order) // world * world : world]]
        first = self._resume_at["batch"] if self._resume_at["epoch"] == epoch else 0
        for batch in range(first, len(self)):
            self._position = {"epoch": epoch, "batch": batch + 1}
            yield batch_of(self.particles, mine[batch * self.batch_size : (batch + 1) * self.batch_size])

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and batches taken from it."""
        return dict(self._position)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Start that epoch behind the batches taken from it; another epoch starts at its first batch."""
        self._resume_at = dict(state)
        self._position = dict(state)
