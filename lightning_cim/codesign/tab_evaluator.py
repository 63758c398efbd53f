"""A benchmark whose optimum is known: the cost model with a made-up accuracy, for every design of a space at once."""

from __future__ import annotations

import itertools
import math
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_cim.codesign.cost import Costs, cost_of
from lightning_cim.codesign.evaluator import Outcome
from lightning_cim.codesign.objective import INVALID, Objective
from lightning_cim.codesign.space import Design, Space

Array = NDArray[np.float64]

ENUMERABLE = 5_000_000
"""Spaces up to this size are tabulated, at some 100 bytes a design."""

DEVICE_SIGMA = {"rram": 0.10, "rram-hrs": 0.12, "fefet": 0.08}
"""Made-up spread of a cell over its range."""
SCATTER = 0.003
"""Made-up spread between trainings of a design; a fixed number for each design."""


class TabEvaluator:
    """Hardware from the cost model, accuracy from a formula. The accuracies are SYNTHETIC: nothing was trained.

    It serves to compare optimizers where the distribution of rewards is known exactly, and says nothing about networks.
    The formula has the trends that one expects (wider is better with diminishing returns, 5x5 helps early layers, more
    bits a cell suffer more from the device's spread and too few ADC bits from clipping, a layer narrower than the one
    before is a bottleneck), interactions between slots, and a scatter that makes it rugged.

    Args:
        space: With the slots of ``tab`` or ``lcda``.
        preset: Of the cost model.
        network: Of the cost model; default: that of the space's name.

    Example:
        >>> evaluator = TabEvaluator(Space.preset("lcda"))
        >>> design = evaluator.space.sample(np.random.default_rng(0))
        >>> sorted(evaluator.evaluate(design, seed=0).metrics)
        ['acc_kpp', 'acc_mean', 'acc_std', 'area_mm2', 'energy_pj', 'latency_ns']
    """

    def __init__(self, space: Space, preset: str = "neurosim22", network: str | None = None) -> None:
        self.space, self._preset, self._network = space, preset, network

    @property
    def version(self) -> str:
        """Names the formula and the cost model."""
        return f"tab-1/{self.space.name}/{self._preset}"

    def cost(self, design: Design) -> dict[str, float]:
        """See :meth:`Evaluator.cost`."""
        return self._hardware(*self._row(design))

    def evaluate(self, design: Design, seed: int) -> Outcome:
        """See :meth:`Evaluator.evaluate`; the seed changes nothing, as in all tabulated benchmarks."""
        costs, place = self._row(design)
        if self.space.cardinality > ENUMERABLE:
            scores = surrogate(self.space, np.array([self.space.encode(design)]))
        else:
            scores = self._scores
        mean, std = (float(found[place]) for found in scores)
        accuracies = {"acc_mean": mean, "acc_std": std, "acc_kpp": mean - 1.645 * std}
        return Outcome({**accuracies, **self._hardware(costs, place)})

    def final(self, design: Design, seed: int) -> dict[str, float]:
        """The same metrics: there is no held-out data of a formula, and no chance in it that a search could exploit."""
        return self.evaluate(design, seed).metrics

    def landscape(self, objective: Objective) -> Array:
        """Rewards of all designs in the order of ``space.designs()``, those beyond a limit with -1.

        Raises:
            ValueError: The space is too large to be tabulated.
        """
        if self.space.cardinality > ENUMERABLE:
            raise ValueError(
                f"the space {self.space.name!r} has {self.space.cardinality:,} designs: too many for a table"
            )
        mean, std = self._scores
        costs = self._table
        metrics: dict[str, Any] = {"acc_mean": mean, "acc_kpp": mean - 1.645 * std, **costs._asdict()}
        with np.errstate(invalid="ignore"):
            reward = _rewards(objective, metrics)
        for name, limit in objective.limits.items():
            reward = np.where(metrics[name] > limit, INVALID, reward)
        return reward

    def __getstate__(self) -> dict[str, Any]:
        """Without the tables, which workers make themselves."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_table", "_scores")}

    @cached_property
    def _table(self) -> Costs:
        return cost_of(self.space, None, self._network, self._preset)

    @cached_property
    def _scores(self) -> tuple[Array, Array]:
        return surrogate(self.space, None)

    def _row(self, design: Design) -> tuple[Costs, int]:
        codes = self.space.encode(design)
        if self.space.cardinality > ENUMERABLE:
            return cost_of(self.space, np.array([codes]), self._network, self._preset), 0
        sizes = [len(slot.values) for slot in self.space.slots]
        return self._table, int(np.ravel_multi_index(codes, sizes))

    @staticmethod
    def _hardware(costs: Costs, place: int) -> dict[str, float]:
        return {name: float(getattr(costs, name)[place]) for name in ("energy_pj", "latency_ns", "area_mm2")}


def _rewards(objective: Objective, metrics: dict[str, Any]) -> Array:
    """As :meth:`Objective.reward`, for arrays."""
    if objective.reward_name == "acc_energy":
        reward: Array = metrics[objective.accuracy] - np.sqrt(metrics["energy_pj"] / objective.energy_scale)
    elif objective.reward_name == "acc_latency":
        reward = metrics[objective.accuracy] + 1e9 / metrics["latency_ns"] / objective.fps_scale
    else:
        reward = np.asarray(objective.reward(metrics), dtype=float)
    return reward


def surrogate(space: Space, codes: NDArray[Any] | None) -> tuple[Array, Array]:
    """Synthetic mean and standard deviation of the accuracy over chips.

    Args:
        space: With slots c12, c34, c56, k12, k34, k56 or c1 to c6 and k1 to k6, and xbar, adc_bits, cell_bits, device.
        codes: ``[designs, slots]``; None: all designs.

    Returns:
        Two arrays of one entry a design.

    Raises:
        ValueError: A slot is missing.
    """
    values = [np.asarray(slot.values) for slot in space.slots]
    sizes = [len(found) for found in values]
    if codes is None:
        columns = list(np.meshgrid(*values, indexing="ij", sparse=True))
        index = np.arange(math.prod(sizes), dtype=np.uint64).reshape(sizes)
    else:
        columns = [found[column] for found, column in zip(values, codes.T, strict=True)]
        index = np.zeros(len(codes), dtype=np.uint64)
        for column, size in zip(codes.T, sizes, strict=True):
            index = index * np.uint64(size) + column.astype(np.uint64)
    slots = dict(zip(space.names, columns, strict=True))
    try:
        mean, std = _accuracy(slots)
    except KeyError as error:
        raise ValueError(f"the synthetic accuracy needs a slot {error}: {space.name!r} has none") from error
    mean = np.clip(mean + SCATTER * _normal(index), 0.1, 1.0)
    return mean.reshape(-1), np.broadcast_to(std, index.shape).reshape(-1)


def _accuracy(slots: dict[str, Any]) -> tuple[Any, Any]:
    channels = [np.log2(_layer(slots, "c", n) / 16) / 3 for n in range(1, 7)]
    kernels = [_layer(slots, "k", n) for n in range(1, 7)]
    width = sum(share * found for share, found in zip((0.08, 0.08, 0.15, 0.15, 0.27, 0.27), channels, strict=True))
    # The best kernel is 5 at first, 3 at last.
    best = (5, 5, 4.5, 4.5, 3, 3)
    misfit = sum(((found - wanted) / 4) ** 2 for found, wanted in zip(kernels, best, strict=True)) / 6
    bottleneck = sum(np.maximum(a - b, 0) for a, b in itertools.pairwise(channels))
    clean = 0.93 - 0.16 * (1 - width) ** 2 - 0.06 * misfit - 0.05 * bottleneck
    sigma = _by_name(slots["device"]) * _slice_factor(slots["cell_bits"])
    noise = 6.0 * sigma**2 * (1.6 - width)
    lossless = np.log2(slots["xbar"]) + slots["cell_bits"] + (slots["cell_bits"] != 1)
    clipped = np.maximum(lossless - 3 - slots["adc_bits"], 0)  # sums hardly ever fill the upper three bits
    return clean - noise - 0.012 * clipped**1.5, 0.004 + 0.25 * noise


def _layer(slots: dict[str, Any], letter: str, n: int) -> Any:
    own, tied = f"{letter}{n}", f"{letter}{n - 1 + n % 2}{n + n % 2}"
    return slots[own] if own in slots else slots[tied]


def _by_name(device: Any) -> Any:
    return np.vectorize(DEVICE_SIGMA.__getitem__, otypes=[float])(device)


def _slice_factor(cell_bits: Any) -> Any:
    """Spread of an 8-bit weight over that of a cell, its slices independent: geometric sums."""
    base = 2.0 ** np.asarray(cell_bits)
    return np.sqrt((base**2) ** (8 / np.asarray(cell_bits)) - 1) / np.sqrt(base**2 - 1) * (base - 1) / 255


def _normal(index: NDArray[np.uint64]) -> Array:
    """A number with mean 0 and variance 1 that depends on the index alone: four uniform ones of a hash, added up."""
    mixed = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    parts = [((mixed >> np.uint64(16 * n)) & np.uint64(0xFFFF)).astype(np.float64) / 65536 for n in range(4)]
    found: Array = (np.sum(parts, axis=0) - 2 + 2 / 65536) * math.sqrt(3)
    return found
