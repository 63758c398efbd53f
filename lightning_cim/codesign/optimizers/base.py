"""Ask and tell: what every optimizer of a design search offers, and how to make one by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design, Space
    from lightning_cim.codesign.trial import Trial


@dataclass(frozen=True)
class Proposal:
    """A design to evaluate.

    Attributes:
        design: Slot name to value, allowed by the space.
        meta: Goes into :attr:`Trial.meta` as it is; JSON-able. ``source`` says who proposed.
    """

    design: Design
    meta: dict[str, Any] = field(default_factory=dict)


class Optimizer(Protocol):
    """Proposes designs and learns from what came of them.

    Proposals are a function of the seed, of the calls so far and of what was told: two optimizers of one seed that
    saw the same are equal, and so is one whose state was written out and read back.

    Attributes:
        name: As in :func:`make_optimizer`.
    """

    name: str

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """New proposals.

        Args:
            history: All finished trials in order, whoever proposed them: always the same sequence, grown at its end.
            n: How many, 1 or more. Proposals whose trials are not finished yet are kept in mind.

        Returns:
            ``n`` proposals; fewer, or none, only from an optimizer that has gone through the whole space.
        """

    def tell(self, trials: Sequence[Trial]) -> None:
        """Hand over finished trials, each once and in the order of the history, also those of other optimizers."""

    def state_dict(self) -> dict[str, Any]:
        """Everything but the history that future proposals depend on; JSON-able. Never holds a secret."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where :meth:`state_dict` was taken.

        Raises:
            ValueError: The state is another optimizer's.
        """


MAKERS = {
    "random": ("optimizers.random_search", "RandomSearch"),
    "grid": ("optimizers.grid", "GridSearch"),
    "evolution": ("optimizers.evolution", "Evolution"),
    "reinforce": ("optimizers.reinforce", "Reinforce"),
    "tpe": ("optimizers.optuna_search", "tpe"),
    "nsga2": ("optimizers.optuna_search", "nsga2"),
    "gp": ("optimizers.optuna_search", "gp"),
    "llm": ("llm.llm_optimizer", "llm"),
    "llm_naive": ("llm.llm_optimizer", "llm_naive"),
    "llm_anonymous": ("llm.llm_optimizer", "llm_anonymous"),
    "hybrid": ("optimizers.hybrid", "hybrid"),
}
"""Name to module and maker; imported when asked for, so that a missing extra is missed only then."""


def make_optimizer(name: str, space: Space, seed: int = 0, **options: Any) -> Optimizer:
    """An optimizer by name.

    Args:
        name: ``random``, ``grid``, ``evolution``, ``reinforce``, ``tpe``, ``nsga2``, ``gp``, ``llm``, ``llm_naive``
            (no expert notes), ``llm_anonymous`` (nothing says what is searched) or ``hybrid`` (a few proposals of one
            optimizer, then another).
        space: What to search.
        seed: Equal seeds propose equally.
        options: As of the optimizer's class.

    Raises:
        ValueError: An unknown name or option, or an option out of range.
        ImportError: A package is missing; the message names the extra.

    Example:
        >>> from lightning_cim.codesign.space import Space
        >>> space = Space.preset("tab")
        >>> optimizer = make_optimizer("evolution", space, seed=1, population=10)
        >>> space.validate(optimizer.ask([])[0].design)
    """
    if name not in MAKERS:
        raise ValueError(f"make_optimizer: there is no optimizer {name!r}: choose one of {', '.join(MAKERS)}")
    module, maker = MAKERS[name]
    make: Callable[..., Optimizer] = getattr(import_module(f"lightning_cim.codesign.{module}"), maker)
    try:
        return make(space, seed=seed, **options)
    except TypeError as error:
        raise ValueError(f"make_optimizer({name!r}): {error}") from error
