"""Lightning callbacks, one a file. The work is in the rooms below; these only open and close the scope in time."""

from lightning_cim.callbacks.batchnorm import recalibrate_batchnorm
from lightning_cim.callbacks.convergence import PreliminaryConvergence
from lightning_cim.callbacks.correctnet import CorrectNetReg, kernel_orthogonality
from lightning_cim.callbacks.crossbar import Crossbar
from lightning_cim.callbacks.export import export_state_dict
from lightning_cim.callbacks.interval_search import IntervalSearch
from lightning_cim.callbacks.mixed_precision import MixedPrecision
from lightning_cim.callbacks.monte_carlo import MonteCarloEvaluation
from lightning_cim.callbacks.negative_feedback import NegativeFeedback
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.selective_write_verify import SelectiveWriteVerify
from lightning_cim.callbacks.shared_block_report import SharedBlockReport
from lightning_cim.callbacks.structured_sparsity import StructuredSparsity
from lightning_cim.callbacks.tiny_shared_block import TinySharedBlock
from lightning_cim.callbacks.tuning import TuningResult, tune_right_censored
from lightning_cim.callbacks.variation_injection import VariationInjection
from lightning_cim.callbacks.worst_case import WorstCaseSearch

__all__ = [
    "CorrectNetReg",
    "Crossbar",
    "IntervalSearch",
    "MixedPrecision",
    "MonteCarloEvaluation",
    "NegativeFeedback",
    "PreliminaryConvergence",
    "RightCensoredTraining",
    "SelectiveWriteVerify",
    "SharedBlockReport",
    "StructuredSparsity",
    "TinySharedBlock",
    "TuningResult",
    "VariationInjection",
    "WorstCaseSearch",
    "export_state_dict",
    "kernel_orthogonality",
    "recalibrate_batchnorm",
    "tune_right_censored",
]
