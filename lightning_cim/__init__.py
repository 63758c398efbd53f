"""lightning_cim: make any LightningModule ready for compute-in-memory chips.

Public names are loaded when first used, so that ``import lightning_cim`` costs next to nothing beside
``import lightning``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lightning_cim._registry import register_strategies

if TYPE_CHECKING:
    from lightning_cim.callbacks import (
        MixedPrecision,
        MonteCarloEvaluation,
        NegativeFeedback,
        StructuredSparsity,
        VariationInjection,
        export_state_dict,
        recalibrate_batchnorm,
    )
    from lightning_cim.chip import Chip, ChipPopulation, Mapping, chip_weights, criterion_call, feedback_logits, on_chip
    from lightning_cim.cli import CIMCLI
    from lightning_cim.evaluation import KPP, ChipResult, Percentile, evaluate_chips
    from lightning_cim.strategies import CIMDDPStrategy, CIMStrategy
    from lightning_cim.variation import (
        Composed,
        Gaussian,
        LeftCensoredGaussian,
        RightCensoredGaussian,
        RightTruncatedGaussian,
        ShiftedGaussian,
        TwoSidedCensoredGaussian,
        UnbiasedRightCensoredGaussian,
        Variation,
    )

__version__ = "0.1.0"

_HOMES = {
    "variation": (
        "Composed",
        "Gaussian",
        "LeftCensoredGaussian",
        "RightCensoredGaussian",
        "RightTruncatedGaussian",
        "ShiftedGaussian",
        "TwoSidedCensoredGaussian",
        "UnbiasedRightCensoredGaussian",
        "Variation",
    ),
    "chip": ("Chip", "ChipPopulation", "Mapping", "chip_weights", "criterion_call", "feedback_logits", "on_chip"),
    "evaluation": ("KPP", "ChipResult", "Percentile", "evaluate_chips"),
    "callbacks": (
        "MixedPrecision",
        "MonteCarloEvaluation",
        "NegativeFeedback",
        "StructuredSparsity",
        "VariationInjection",
        "export_state_dict",
        "recalibrate_batchnorm",
    ),
    "strategies": ("CIMDDPStrategy", "CIMStrategy"),
    "cli": ("CIMCLI",),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "CIMCLI",
    "KPP",
    "CIMDDPStrategy",
    "CIMStrategy",
    "Chip",
    "ChipPopulation",
    "ChipResult",
    "Composed",
    "Gaussian",
    "LeftCensoredGaussian",
    "Mapping",
    "MixedPrecision",
    "MonteCarloEvaluation",
    "NegativeFeedback",
    "Percentile",
    "RightCensoredGaussian",
    "RightTruncatedGaussian",
    "ShiftedGaussian",
    "StructuredSparsity",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Variation",
    "VariationInjection",
    "chip_weights",
    "criterion_call",
    "evaluate_chips",
    "export_state_dict",
    "feedback_logits",
    "on_chip",
    "recalibrate_batchnorm",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'lightning_cim' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"lightning_cim.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


register_strategies()
