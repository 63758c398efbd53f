"""Monte Carlo over chips, worst case and uncertainty. Imports no Lightning: Trainers come as arguments."""

from lightning_cim.evaluation.convergence import ConvergenceProbability
from lightning_cim.evaluation.evaluate import evaluate_chips
from lightning_cim.evaluation.found_chip import FoundChip
from lightning_cim.evaluation.logits import chip_logits
from lightning_cim.evaluation.metrics import KPP
from lightning_cim.evaluation.percentile import Percentile, percentile
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.evaluation.retention_result import RetentionResult
from lightning_cim.evaluation.uncertainty import ChipConfidence, ExpectedKL, fit_temperature
from lightning_cim.evaluation.worst_case import worst_case
from lightning_cim.evaluation.worst_case_result import WorstCaseResult

__all__ = [
    "KPP",
    "ChipConfidence",
    "ChipResult",
    "ConvergenceProbability",
    "ExpectedKL",
    "FoundChip",
    "Percentile",
    "RetentionResult",
    "WorstCaseResult",
    "chip_logits",
    "evaluate_chips",
    "fit_temperature",
    "percentile",
    "worst_case",
]
