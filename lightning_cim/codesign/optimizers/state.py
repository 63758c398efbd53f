"""What seeded optimizers share: a random generator that can be written down, and the designs that were tried."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design, Space
    from lightning_cim.codesign.trial import Trial

Codes = tuple[int, ...]

TRIES = 100
"""Draws near and draws anywhere in search of a design that was not tried, before a repeated one is accepted."""


def generator(state: Mapping[str, Any]) -> np.random.Generator:
    """The inverse of ``rng.bit_generator.state``, also after a detour through JSON.

    Example:
        >>> rng = np.random.default_rng(3)
        >>> generator(rng.bit_generator.state).random() == rng.random()
        True
    """
    rng = np.random.default_rng()
    rng.bit_generator.state = state
    return rng


def check_owner(state: Mapping[str, Any], name: str) -> None:
    """Refuse the state of another optimizer.

    Raises:
        ValueError: It is not of an optimizer of this name.
    """
    if state.get("name") != name:
        raise ValueError(f"this is the state of optimizer {state.get('name')!r}, not of {name!r}")


class Tried:
    """Designs that need no second try: those of the history, and those that are under way.

    Args:
        space: Of the designs.
        pending: Designs under way, as :attr:`pending` of an earlier object.
    """

    def __init__(self, space: Space, pending: Iterable[Sequence[int]] = ()) -> None:
        self._space = space
        self._done: set[Codes] = set()
        self._pending = {tuple(codes) for codes in pending}
        self._followed = 0

    @property
    def pending(self) -> list[list[int]]:
        """Designs under way, in a fixed order; JSON-able."""
        return sorted(map(list, self._pending))

    def follow(self, history: Sequence[Trial]) -> None:
        """Take in what the history has gained since the last call."""
        for trial in history[self._followed :]:
            codes = self._space.encode(trial.design)
            self._done.add(codes)
            self._pending.discard(codes)
        self._followed = len(history)

    def start(self, codes: Codes) -> None:
        """A design is under way."""
        self._pending.add(codes)

    def __contains__(self, codes: Codes) -> bool:
        return codes in self._done or codes in self._pending


def mutated(space: Space, codes: Codes, rng: np.random.Generator) -> Codes:
    """The same design but for one slot, drawn uniformly, which gets another value, drawn uniformly.

    A space whose slots have one value each has one design, which is returned.
    """
    open_slots = [place for place, slot in enumerate(space.slots) if len(slot.values) > 1]
    if not open_slots:
        return codes
    place = open_slots[int(rng.integers(len(open_slots)))]
    other = int(rng.integers(len(space.slots[place].values) - 1))
    other += other >= codes[place]
    return (*codes[:place], other, *codes[place + 1 :])


def untried(tried: Tried, space: Space, near: Callable[[], Codes], rng: np.random.Generator) -> Codes:
    """A design that was not tried yet, from ``near`` if that finds one, else drawn uniformly; at worst repeated."""
    for turn in range(2 * TRIES):
        codes = near() if turn < TRIES else sampled(space, rng)
        if codes not in tried:
            break
    return codes


def sampled(space: Space, rng: np.random.Generator) -> Codes:
    """A design drawn uniformly."""
    return tuple(int(rng.integers(len(slot.values))) for slot in space.slots)


def incumbent(history: Sequence[Trial]) -> Design | None:
    """The design of the greatest reward among those that could be evaluated; the earliest of several."""
    evaluated = [trial for trial in history if trial.status == "ok"]
    return max(evaluated, key=lambda trial: trial.reward).design if evaluated else None
