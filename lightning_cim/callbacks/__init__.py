"""Lightning callbacks, one a file. The work is in the rooms below; these only open and close the scope in time."""

from lightning_cim.callbacks.batchnorm import recalibrate_batchnorm
from lightning_cim.callbacks.export import export_state_dict
from lightning_cim.callbacks.mixed_precision import MixedPrecision
from lightning_cim.callbacks.monte_carlo import MonteCarloEvaluation
from lightning_cim.callbacks.negative_feedback import NegativeFeedback
from lightning_cim.callbacks.structured_sparsity import StructuredSparsity
from lightning_cim.callbacks.variation_injection import VariationInjection

__all__ = [
    "MixedPrecision",
    "MonteCarloEvaluation",
    "NegativeFeedback",
    "StructuredSparsity",
    "VariationInjection",
    "export_state_dict",
    "recalibrate_batchnorm",
]
