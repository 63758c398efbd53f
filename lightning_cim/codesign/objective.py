"""What a search maximises, and the limits that a design must keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from lightning_cim.codesign.llm.prompt import Task

Reward = Literal["acc_energy", "acc_latency", "weighted", "pareto"]
Direction = Literal["maximize", "minimize"]

INVALID = -1.0
"""Reward of a design that breaks a limit, or whose evaluation broke down."""

HARDWARE = ("energy_pj", "latency_ns", "area_mm2")
"""Metrics of a cost model; smaller is better."""


@dataclass(frozen=True)
class Objective:
    """Turns metrics into one reward.

    * ``"acc_energy"``: accuracy - sqrt(energy_pj / energy_scale), after LCDA (arXiv 2306.06923).
    * ``"acc_latency"``: accuracy + frames a second / fps_scale, after the same.
    * ``"weighted"``: sum of ``weights`` times metrics.
    * ``"pareto"``: accuracy alone; for optimizers that take several goals, see :attr:`directions`.

    Attributes:
        reward_name: Which of these.
        limits: Largest allowed value of metrics that the cost model gives; a design beyond is never trained.
        energy_scale: Energy in pJ that costs as much as the whole accuracy; more than 0. 8e7 is what LCDA is
            remembered to use for CIFAR-10.
        fps_scale: Frames a second that are worth the whole accuracy; more than 0.
        weights: Of ``"weighted"``, by metric; negative for what is to be small.
        accuracy: The metric that counts as accuracy, such as ``"acc_mean"`` or ``"acc_kpp"``.

    Raises:
        ValueError: An unknown reward, a scale that is not positive, a limit that is not finite, weights that are
            missing or superfluous.

    Example:
        >>> objective = Objective("acc_energy", limits={"area_mm2": 30.0})
        >>> objective.reward({"acc_mean": 0.9, "energy_pj": 8e5})
        0.8
        >>> objective.violations({"area_mm2": 45.0})
        {'area_mm2': 0.5}
    """

    reward_name: Reward = "acc_energy"
    limits: Mapping[str, float] = field(default_factory=dict)
    energy_scale: float = 8e7
    fps_scale: float = 1600.0
    weights: Mapping[str, float] = field(default_factory=dict)
    accuracy: str = "acc_mean"

    def __post_init__(self) -> None:
        if self.reward_name not in get_args(Reward):
            raise ValueError(f"there is no reward {self.reward_name!r}: choose one of {', '.join(get_args(Reward))}")
        for name in ("energy_scale", "fps_scale"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"Objective: {name} must be more than 0, got {value!r}")
        for metric, limit in self.limits.items():
            if not (math.isfinite(limit) and limit > 0):
                raise ValueError(f"Objective: the limit of {metric} must be more than 0 and finite, got {limit!r}")
        if bool(self.weights) != (self.reward_name == "weighted"):
            raise ValueError("Objective: weights belong to the reward 'weighted', which needs some; give both or none")

    def reward(self, metrics: Mapping[str, float]) -> float:
        """The reward of a valid design.

        Raises:
            ValueError: A metric is missing.
        """
        if self.reward_name == "weighted":
            return sum(weight * self._of(metrics, name) for name, weight in self.weights.items())
        accuracy = self._of(metrics, self.accuracy)
        if self.reward_name == "acc_energy":
            return accuracy - math.sqrt(self._of(metrics, "energy_pj") / self.energy_scale)
        if self.reward_name == "acc_latency":
            return accuracy + 1e9 / self._of(metrics, "latency_ns") / self.fps_scale
        return accuracy

    def violations(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """By how much each limit is exceeded, relative to it; above 0 means that the design is invalid.

        Raises:
            ValueError: A metric with a limit is missing or NaN: the limit could not be kept.
        """
        found = {name: self._of(metrics, name) / limit - 1 for name, limit in self.limits.items()}
        if unknown := [name for name, value in found.items() if math.isnan(value)]:
            raise ValueError(f"the cost model gives no number for {', '.join(unknown)}, which has a limit")
        return found

    @property
    def directions(self) -> dict[str, Direction]:
        """Goals of a multi-objective search: accuracy up, hardware down."""
        return {self.accuracy: "maximize", **dict.fromkeys(HARDWARE, "minimize")}

    @property
    def formula(self) -> str:
        """The reward in one line.

        Example:
            >>> Objective("acc_latency").formula
            'acc_mean + (1e9 / latency_ns) / 1600'
        """
        if self.reward_name == "acc_energy":
            return f"{self.accuracy} - sqrt(energy_pj / {self.energy_scale:g})"
        if self.reward_name == "acc_latency":
            return f"{self.accuracy} + (1e9 / latency_ns) / {self.fps_scale:g}"
        if self.reward_name == "weighted":
            return " + ".join(f"{weight:g} * {name}" for name, weight in self.weights.items())
        return f"{self.accuracy} up; {', '.join(HARDWARE)} down"

    @property
    def limits_in_words(self) -> tuple[str, ...]:
        """One line a limit."""
        return tuple(f"{name} at most {limit:g}" for name, limit in self.limits.items())

    def task(self, about: str) -> Task:
        """What a language model is told of the goal.

        Args:
            about: Network, data and hardware in a sentence or two.
        """
        from lightning_cim.codesign.llm.prompt import Task

        return Task(about, self.formula, self.limits_in_words)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; the inverse of ``Objective(**found)``."""
        return {
            "reward_name": self.reward_name,
            "limits": dict(self.limits),
            "energy_scale": self.energy_scale,
            "fps_scale": self.fps_scale,
            "weights": dict(self.weights),
            "accuracy": self.accuracy,
        }

    @staticmethod
    def _of(metrics: Mapping[str, float], name: str) -> float:
        if name not in metrics:
            raise ValueError(f"the objective needs the metric {name!r}; the evaluator gives {', '.join(metrics)}")
        return metrics[name]
