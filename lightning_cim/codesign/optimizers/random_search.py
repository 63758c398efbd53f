"""Uniform random search: the baseline whose time to a target is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import check_owner, generator

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial


class RandomSearch:
    """Designs drawn uniformly and independently, so that one may come twice.

    Args:
        space: What to search.
        seed: Of the draws.

    Example:
        >>> from lightning_cim.codesign.space import Slot, Space
        >>> space = Space((Slot("kernel", (3, 5, 7)), Slot("adc_bits", (4, 5))))
        >>> RandomSearch(space, seed=0).ask([], 2) == RandomSearch(space, seed=0).ask([], 2)
        True
    """

    name = "random"

    def __init__(self, space: Space, seed: int = 0) -> None:
        self._space, self._rng = space, np.random.default_rng(seed)

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`; does not look at the history."""
        return [Proposal(self._space.sample(self._rng), {"source": self.name}) for _ in range(n)]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing is learned."""

    def state_dict(self) -> dict[str, Any]:
        """State of the generator."""
        return {"name": self.name, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        self._rng = generator(state["rng"])
