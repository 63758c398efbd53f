"""Spaces and histories for tests of optimizers."""

import itertools
import json

import numpy as np

from lightning_cim.codesign.space import Slot, Space
from lightning_cim.codesign.trial import Trial

SMALL = Space(
    (
        Slot("channels", (16, 32, 64, 128), about="output channels"),
        Slot("kernel", (1, 3, 5), about="kernel size"),
        Slot("adc_bits", (4, 5, 6, 7), unit="bit"),
        Slot("device", ("rram", "fefet", "sram")),
        Slot("tech", (22,)),
    ),
    "small",
)


class Hills:
    """An analytic objective: one peak a slot, and neighbours that help each other; about a tenth is invalid."""

    def __init__(self, space, seed=0):
        rng = np.random.default_rng(seed)
        sizes = [len(slot.values) for slot in space.slots]
        self.space = space
        self.worth = [rng.normal(size=size) for size in sizes]
        self.pairs = [0.5 * rng.normal(size=(a, b)) for a, b in itertools.pairwise(sizes)]
        self.weight = [rng.random(size) for size in sizes]
        sums = [sum(w[c] for w, c in zip(self.weight, codes, strict=True)) for codes in self._draws(rng, sizes)]
        self.limit = float(np.quantile(sums, 0.9))

    @staticmethod
    def _draws(rng, sizes):
        return [[int(rng.integers(size)) for size in sizes] for _ in range(1000)]

    def codes_score(self, codes):
        singles = sum(worth[code] for worth, code in zip(self.worth, codes, strict=True))
        return singles + sum(pair[a, b] for pair, a, b in zip(self.pairs, codes, codes[1:], strict=False))

    def trial(self, proposal, number):
        codes = self.space.encode(proposal.design)
        excess = float(sum(weight[code] for weight, code in zip(self.weight, codes, strict=True)) - self.limit)
        score = float(self.codes_score(codes))
        metrics = {"energy_pj": 1.0 + sum(codes)}
        if excess > 0:
            meta = {**proposal.meta, "reason": "too large", "violations": [excess]}
            return Trial(proposal.design, metrics, -1.0, "invalid", meta, number)
        reward = 1 / (1 + float(np.exp(-score / 2)))
        meta = {**proposal.meta, "violations": [excess]}
        return Trial(proposal.design, {"acc_mean": reward, **metrics}, reward, "ok", meta, number)


def search(optimizer, objective, budget, history=None):
    """Ask, evaluate, tell, one at a time; the history is continued in place."""
    history = [] if history is None else history
    while len(history) < budget:
        for proposal in optimizer.ask(history):
            history.append(objective.trial(proposal, len(history)))
            optimizer.tell(history[-1:])
    return history


def through_json(value):
    return json.loads(json.dumps(value, allow_nan=False))
