"""Search over networks and compute-in-memory hardware together.

``CoDesignSearch`` runs the loop; ``Space``, an evaluator, an optimizer and an ``Objective`` are its parts.
"""

from lightning_cim.codesign.cache import EvaluationCache
from lightning_cim.codesign.cost import hardware_cost
from lightning_cim.codesign.evaluator import Evaluator, Outcome
from lightning_cim.codesign.objective import Objective
from lightning_cim.codesign.optimizers import Optimizer, Proposal, make_optimizer
from lightning_cim.codesign.pareto import pareto_front
from lightning_cim.codesign.result import SearchResult
from lightning_cim.codesign.search import CoDesignSearch, guarded
from lightning_cim.codesign.shared import SharedSearch
from lightning_cim.codesign.space import Design, Slot, Space
from lightning_cim.codesign.speedup import (
    SpeedUp,
    TimeToTarget,
    best_at,
    budget_ratio,
    speed_up,
    speed_up_table,
    threshold_of_runs,
    thresholds_of,
    times_of,
)
from lightning_cim.codesign.store import TrialStore, read_trials
from lightning_cim.codesign.tab_evaluator import TabEvaluator
from lightning_cim.codesign.trial import Trial
from lightning_cim.codesign.wandb_sweep import to_wandb_sweep
from lightning_cim.codesign.winners import Winner, rescore, winners_table

__all__ = [
    "CoDesignSearch",
    "Design",
    "EvaluationCache",
    "Evaluator",
    "Objective",
    "Optimizer",
    "Outcome",
    "Proposal",
    "SearchResult",
    "SharedSearch",
    "Slot",
    "Space",
    "SpeedUp",
    "TabEvaluator",
    "TimeToTarget",
    "Trial",
    "TrialStore",
    "Winner",
    "best_at",
    "budget_ratio",
    "guarded",
    "hardware_cost",
    "make_optimizer",
    "pareto_front",
    "read_trials",
    "rescore",
    "speed_up",
    "speed_up_table",
    "threshold_of_runs",
    "thresholds_of",
    "times_of",
    "to_wandb_sweep",
    "winners_table",
]
