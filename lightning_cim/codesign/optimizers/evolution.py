"""Regularised evolution (Real et al., AAAI 2019): tournaments among the youngest, one mutation at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import Codes, Tried, check_owner, generator, mutated, sampled, untried

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial


class Evolution:
    """The best of a few of the latest trials, with one slot changed; the old die, however good they were.

    The population is the end of the history, whoever proposed it. Designs that were tried are avoided.

    Args:
        space: What to search.
        seed: Of all draws.
        population: How many of the latest trials may be parents; at least 2.
        tournament: How many of them compete for it, 1 to ``population``.
        initial: Random designs until the history is so long; at least 1. Default: ``population``.

    Raises:
        ValueError: An option out of range.
    """

    name = "evolution"

    def __init__(
        self, space: Space, seed: int = 0, population: int = 20, tournament: int = 5, initial: int | None = None
    ) -> None:
        if population < 2:
            raise ValueError(f"Evolution: population must be at least 2, got {population}")
        if not 1 <= tournament <= population:
            raise ValueError(f"Evolution: tournament must lie in 1 to population={population}, got {tournament}")
        if initial is not None and initial < 1:
            raise ValueError(f"Evolution: initial must be at least 1, got {initial}")
        self._space, self._rng = space, np.random.default_rng(seed)
        self._population, self._tournament = population, tournament
        self._initial = population if initial is None else initial
        self._tried = Tried(space)

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`."""
        self._tried.follow(history)
        return [self._propose(history) for _ in range(n)]

    def _propose(self, history: Sequence[Trial]) -> Proposal:
        codes = untried(self._tried, self._space, lambda: self._drawn(history), self._rng)
        self._tried.start(codes)
        return Proposal(self._space.decode(codes), {"source": self.name})

    def _drawn(self, history: Sequence[Trial]) -> Codes:
        if len(history) < self._initial:
            return sampled(self._space, self._rng)
        alive = history[-self._population :]
        chosen = self._rng.choice(len(alive), size=min(self._tournament, len(alive)), replace=False)
        parent = max((alive[place] for place in sorted(chosen)), key=lambda trial: trial.reward)
        return mutated(self._space, self._space.encode(parent.design), self._rng)

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing to do: the history is the population."""

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, and designs under way."""
        return {"name": self.name, "rng": self._rng.bit_generator.state, "pending": self._tried.pending}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        self._rng = generator(state["rng"])
        self._tried = Tried(self._space, state["pending"])
