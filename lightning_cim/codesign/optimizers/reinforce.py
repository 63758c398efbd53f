"""REINFORCE (Williams, 1992) with one independent categorical distribution a slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import check_owner, generator

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial


class Reinforce:
    """Policy gradient: what did better than of late becomes more likely.

    NACIM (arXiv 1911.00139) drives its search by a recurrent controller; independent slots are the plainer policy.
    Advantages are divided by their running scale, so that the learning rate does not depend on the reward's unit.
    Trials that others proposed move the policy, too.

    Args:
        space: What to search.
        seed: Of the draws.
        learning_rate: Step of the logits for a batch whose advantages are one scale; greater than 0.
        decay: Of the running mean and scale of rewards, in [0, 1).
        batch: Trials a step; at least 1.

    Raises:
        ValueError: An option out of range.
    """

    name = "reinforce"

    def __init__(
        self, space: Space, seed: int = 0, learning_rate: float = 0.5, decay: float = 0.9, batch: int = 5
    ) -> None:
        if not learning_rate > 0:
            raise ValueError(f"Reinforce: learning_rate must be greater than 0, got {learning_rate}")
        if not 0 <= decay < 1:
            raise ValueError(f"Reinforce: decay must lie in [0, 1), got {decay}")
        if batch < 1:
            raise ValueError(f"Reinforce: batch must be at least 1, got {batch}")
        self._space, self._rng = space, np.random.default_rng(seed)
        self._learning_rate, self._decay, self._batch = learning_rate, decay, batch
        self._logits = [np.zeros(len(slot.values)) for slot in space.slots]
        self._baseline: float | None = None
        self._square: float | None = None
        self._waiting: list[tuple[list[int], float]] = []

    def probabilities(self) -> list[NDArray[np.float64]]:
        """The policy: one vector a slot, which sums to 1."""
        return [_softmax(logits) for logits in self._logits]

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`; draws from the policy as it stands."""
        policy = self.probabilities()
        drawn = ([int(self._rng.choice(len(p), p=p)) for p in policy] for _ in range(n))
        return [Proposal(self._space.decode(codes), {"source": self.name}) for codes in drawn]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Move the policy after every full batch."""
        for trial in trials:
            if self._baseline is None:
                self._baseline = trial.reward
            advantage = trial.reward - self._baseline
            self._baseline += (1 - self._decay) * advantage
            if self._square is None:
                self._square = advantage**2 or None
            else:
                self._square += (1 - self._decay) * (advantage**2 - self._square)
            self._waiting.append((list(self._space.encode(trial.design)), advantage))
            if len(self._waiting) == self._batch:
                self._step()

    def _step(self) -> None:
        scale = self._square**0.5 if self._square else 1.0
        for place, policy in enumerate(self.probabilities()):
            gradient = np.zeros_like(policy)
            for codes, advantage in self._waiting:
                gradient -= advantage / scale * policy
                gradient[codes[place]] += advantage / scale
            self._logits[place] += self._learning_rate * gradient / self._batch
        self._waiting = []

    def state_dict(self) -> dict[str, Any]:
        """Policy, baseline, the batch that is not full yet, and state of the generator."""
        return {
            "name": self.name,
            "rng": self._rng.bit_generator.state,
            "logits": [logits.tolist() for logits in self._logits],
            "baseline": self._baseline,
            "square": self._square,
            "waiting": [[list(codes), advantage] for codes, advantage in self._waiting],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        if [len(logits) for logits in state["logits"]] != [len(slot.values) for slot in self._space.slots]:
            raise ValueError(f"this is the state of a search of another space than {self._space.name!r}")
        self._rng = generator(state["rng"])
        self._logits = [np.array(logits, dtype=float) for logits in state["logits"]]
        self._baseline, self._square = state["baseline"], state["square"]
        self._waiting = [(list(codes), advantage) for codes, advantage in state["waiting"]]


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    policy: NDArray[np.float64] = powers / powers.sum()
    return policy
