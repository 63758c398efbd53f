"""A few proposals of one optimizer, then another: a warm start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lightning_cim.codesign.optimizers.base import Optimizer, Proposal, make_optimizer
from lightning_cim.codesign.optimizers.state import check_owner

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial


class Hybrid:
    """The first proposals are one optimizer's, all others another's; both learn from all trials.

    Args:
        first: Proposes first.
        then: Proposes afterwards.
        warm: Proposals of ``first``; at least 1.

    Raises:
        ValueError: ``warm`` is less than 1.
    """

    name = "hybrid"

    def __init__(self, first: Optimizer, then: Optimizer, warm: int) -> None:
        if warm < 1:
            raise ValueError(f"Hybrid: warm must be at least 1, got {warm}")
        self.first, self.then = first, then
        self._warm, self._asked = warm, 0

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`."""
        early = self.first.ask(history, count) if (count := min(n, self._warm - self._asked)) > 0 else []
        self._asked += len(early)
        return early + (self.then.ask(history, n - len(early)) if n > len(early) else [])

    def tell(self, trials: Sequence[Trial]) -> None:
        """Both learn."""
        self.first.tell(trials)
        self.then.tell(trials)

    def state_dict(self) -> dict[str, Any]:
        """How many warm proposals were made, and both states."""
        return {
            "name": self.name,
            "asked": self._asked,
            "first": self.first.state_dict(),
            "then": self.then.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        self._asked = state["asked"]
        self.first.load_state_dict(state["first"])
        self.then.load_state_dict(state["then"])


def hybrid(
    space: Space,
    seed: int = 0,
    *,
    first: str = "llm",
    then: str = "evolution",
    warm: int = 5,
    first_options: Mapping[str, Any] | None = None,
    then_options: Mapping[str, Any] | None = None,
) -> Hybrid:
    """A :class:`Hybrid` of two optimizers by name.

    Evolution starts from the warm trials at once, unless its option ``initial`` says otherwise. With ``warm=1`` this
    is the control arm of every claim about language models: their first guess, then local search.

    Args:
        space: What to search.
        seed: Of both.
        first: As in :func:`make_optimizer`.
        then: As in :func:`make_optimizer`.
        warm: Proposals of ``first``.
        first_options: Its options.
        then_options: Options of ``then``.
    """
    options = {"initial": max(warm, 1), **(then_options or {})} if then == "evolution" else dict(then_options or {})
    return Hybrid(
        make_optimizer(first, space, seed, **(first_options or {})), make_optimizer(then, space, seed, **options), warm
    )
