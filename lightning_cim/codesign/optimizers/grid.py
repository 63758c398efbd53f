"""Every design once, in an order that covers the space early."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import Codes, check_owner

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial

GOLDEN = (math.sqrt(5) - 1) / 2


class GridSearch:
    """Goes through the whole space, each design once, and then has nothing left to propose.

    Designs in the order of their codes, last slot fastest, are visited in steps of about 0.618 of the space, prime to
    its size: any number of first steps lies evenly in that order, where single steps would stay in one corner.

    Args:
        space: What to search.
        seed: Where to start.

    Example:
        >>> from lightning_cim.codesign.space import Slot, Space
        >>> space = Space((Slot("kernel", (3, 5, 7)), Slot("adc_bits", (4, 5))))
        >>> grid = GridSearch(space)
        >>> len({space.key(proposal.design) for proposal in grid.ask([], n=100)}), grid.ask([])
        (6, [])
    """

    name = "grid"

    def __init__(self, space: Space, seed: int = 0) -> None:
        self._space = space
        size = space.cardinality
        self._start = int(np.random.default_rng(seed).integers(min(size, 2**63 - 1)))
        self._step = next(step for step in range(max(round(GOLDEN * size), 1), size + 2) if math.gcd(step, size) == 1)
        self._asked = 0

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`; fewer than ``n``, or none, at the end of the space."""
        first, last = self._asked, min(self._asked + n, self._space.cardinality)
        self._asked = last
        size = self._space.cardinality
        places = [(self._start + turn * self._step) % size for turn in range(first, last)]
        return [Proposal(self._space.decode(self._codes(place)), {"source": self.name}) for place in places]

    def _codes(self, place: int) -> Codes:
        codes = []
        for slot in reversed(self._space.slots):
            place, code = divmod(place, len(slot.values))
            codes.append(code)
        return tuple(reversed(codes))

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing is learned."""

    def state_dict(self) -> dict[str, Any]:
        """How many designs were proposed, and where it began."""
        return {"name": self.name, "start": self._start, "asked": self._asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        self._start, self._asked = state["start"], state["asked"]
