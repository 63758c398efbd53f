"""Monte Carlo over chips. Imports no Lightning: Trainers come as arguments."""

from lightning_cim.evaluation.evaluate import evaluate_chips
from lightning_cim.evaluation.metrics import KPP
from lightning_cim.evaluation.percentile import Percentile, percentile
from lightning_cim.evaluation.result import ChipResult

__all__ = ["KPP", "ChipResult", "Percentile", "evaluate_chips", "percentile"]
