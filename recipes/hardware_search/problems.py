"""What is searched: a space with its evaluator, its objective and what a language model is told of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from lightning_cim.codesign import Evaluator, Objective, Space, TabEvaluator
from recipes.hardware_search.evaluator import DigitsEvaluator

RewardName = Literal["acc_energy", "acc_latency", "weighted", "pareto"]


@dataclass(frozen=True)
class Goal:
    """What is maximised, and the limits. None: what suits the space.

    Attributes:
        reward: See ``lightning_cim.codesign.Objective``; ``pareto`` goes with tpe, nsga2 and gp only.
        limits: Largest allowed energy_pj, latency_ns or area_mm2.
        energy_scale: pJ that cost as much as the whole accuracy.
        fps_scale: Frames a second that are worth the whole accuracy.
        weights: Of the reward ``weighted``, by metric.
        accuracy: acc_mean, or acc_kpp for the worse chips.
    """

    reward: RewardName = "acc_energy"
    limits: dict[str, float] | None = None
    energy_scale: float | None = None
    fps_scale: float | None = None
    weights: dict[str, float] = field(default_factory=dict)
    accuracy: str = "acc_mean"


@dataclass(frozen=True)
class Problem:
    """A space and everything that belongs to it.

    Attributes:
        space: Of the designs.
        evaluator: Scores them.
        objective: Reward and limits.
        about: For language models and the report.
        budget: Episodes of a search, unless said otherwise.
        seeds: Searches of each optimizer, unless said otherwise.
        evolution: Options that suit the budget.
        replay: Recorded answers that suit the space.
    """

    space: Space
    evaluator: Evaluator
    objective: Objective
    about: str
    budget: int
    seeds: int
    evolution: Mapping[str, Any]
    replay: Path

    @property
    def is_tabulated(self) -> bool:
        """Whether the reward of every design is known."""
        return isinstance(self.evaluator, TabEvaluator) and self.space.cardinality <= 5_000_000


CONFIGS = Path(__file__).parents[1] / "configs"
SYNTHETIC = (
    "A convolutional network for CIFAR-10 on an analog compute-in-memory accelerator."
    " The accuracies are SYNTHETIC: a formula, nothing is trained."
)
TRAINED = (
    "A convolutional network for 8x8 images of handwritten digits on an analog compute-in-memory accelerator, trained"
    " under the device's variation and tested on simulated chips."
)


def problem(space: str, goal: Goal, digits: DigitsEvaluator | None = None) -> Problem:
    """The problem of a space.

    Args:
        space: ``tab``, ``lcda``, ``digits``, or a YAML file with the slots of ``tab`` (synthetic accuracies).
        goal: What is maximised.
        digits: Trains the networks of the space ``digits``.

    Raises:
        ValueError: No such space, or options out of range.
        FileNotFoundError: No such file.
    """
    found = Space.from_yaml(space) if space.endswith((".yaml", ".yml")) else Space.preset(space)
    is_trained = space == "digits"
    default = (
        Objective(limits={"area_mm2": 20.0}, energy_scale=6e6) if is_trained else Objective(limits={"area_mm2": 100.0})
    )
    objective = replace(
        default,
        reward_name=goal.reward,
        limits=default.limits if goal.limits is None else goal.limits,
        energy_scale=goal.energy_scale or default.energy_scale,
        fps_scale=goal.fps_scale or default.fps_scale,
        weights=goal.weights,
        accuracy=goal.accuracy,
    )
    if is_trained:
        return Problem(
            found,
            digits or DigitsEvaluator(),
            objective,
            TRAINED,
            budget=20,
            seeds=1,
            evolution={"population": 5, "tournament": 3},
            replay=CONFIGS / "codesign-replay-digits.jsonl",
        )
    network = space if space in ("tab", "lcda") else "tab"
    evaluator = cast(Evaluator, TabEvaluator(found, network=network))
    return Problem(found, evaluator, objective, SYNTHETIC, 500, 20, {}, CONFIGS / "codesign-replay.jsonl")
