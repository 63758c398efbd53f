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
        CorrectNetReg,
        IntervalSearch,
        MixedPrecision,
        MonteCarloEvaluation,
        NegativeFeedback,
        PreliminaryConvergence,
        RightCensoredTraining,
        SelectiveWriteVerify,
        SharedBlockReport,
        StructuredSparsity,
        TinySharedBlock,
        TuningResult,
        VariationInjection,
        WorstCaseSearch,
        export_state_dict,
        kernel_orthogonality,
        recalibrate_batchnorm,
        tune_right_censored,
    )
    from lightning_cim.chip import (
        Chip,
        ChipPopulation,
        Mapping,
        ReadBackChip,
        SharedBlock,
        chip_weights,
        criterion_call,
        deployed_chip,
        feedback_logits,
        insert_shared_block,
        named_blocks,
        on_chip,
        remove_shared_block,
        snapshot_paths,
        trace_blocks,
    )
    from lightning_cim.cli import (
        CIMCLI,
    )
    from lightning_cim.evaluation import (
        KPP,
        ChipConfidence,
        ChipResult,
        ConvergenceProbability,
        ExpectedKL,
        FoundChip,
        Percentile,
        WorstCaseResult,
        chip_logits,
        evaluate_chips,
        fit_temperature,
        worst_case,
    )
    from lightning_cim.programming import (
        ProgrammingCurve,
        ProgrammingReport,
        Sensitivity,
        VerifiedChip,
        WriteVerify,
        in_situ_training,
        program,
        sensitivity,
    )
    from lightning_cim.strategies import (
        CIMDDPStrategy,
        CIMStrategy,
    )
    from lightning_cim.variation import (
        Composed,
        Device,
        Encoding,
        Gaussian,
        LeftCensoredGaussian,
        LevelGaussian,
        Measured,
        Polynomial,
        RightCensoredGaussian,
        RightTruncatedGaussian,
        SaturatingExponential,
        ShiftedGaussian,
        Table,
        TwoSidedCensoredGaussian,
        UnbiasedRightCensoredGaussian,
        Uniform,
        Variation,
    )

__version__ = "0.1.0"

_HOMES = {
    "variation": (
        "Composed",
        "Device",
        "Encoding",
        "Gaussian",
        "LeftCensoredGaussian",
        "LevelGaussian",
        "Measured",
        "Polynomial",
        "RightCensoredGaussian",
        "RightTruncatedGaussian",
        "SaturatingExponential",
        "ShiftedGaussian",
        "Table",
        "TwoSidedCensoredGaussian",
        "UnbiasedRightCensoredGaussian",
        "Uniform",
        "Variation",
    ),
    "chip": (
        "Chip",
        "ChipPopulation",
        "Mapping",
        "ReadBackChip",
        "SharedBlock",
        "chip_weights",
        "criterion_call",
        "deployed_chip",
        "feedback_logits",
        "insert_shared_block",
        "named_blocks",
        "on_chip",
        "remove_shared_block",
        "snapshot_paths",
        "trace_blocks",
    ),
    "evaluation": (
        "ChipConfidence",
        "ChipResult",
        "ConvergenceProbability",
        "ExpectedKL",
        "FoundChip",
        "KPP",
        "Percentile",
        "WorstCaseResult",
        "chip_logits",
        "evaluate_chips",
        "fit_temperature",
        "worst_case",
    ),
    "programming": (
        "ProgrammingCurve",
        "ProgrammingReport",
        "Sensitivity",
        "VerifiedChip",
        "WriteVerify",
        "in_situ_training",
        "program",
        "sensitivity",
    ),
    "callbacks": (
        "CorrectNetReg",
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
    ),
    "strategies": (
        "CIMDDPStrategy",
        "CIMStrategy",
    ),
    "cli": ("CIMCLI",),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}

__all__ = [
    "CIMCLI",
    "KPP",
    "CIMDDPStrategy",
    "CIMStrategy",
    "Chip",
    "ChipConfidence",
    "ChipPopulation",
    "ChipResult",
    "Composed",
    "ConvergenceProbability",
    "CorrectNetReg",
    "Device",
    "Encoding",
    "ExpectedKL",
    "FoundChip",
    "Gaussian",
    "IntervalSearch",
    "LeftCensoredGaussian",
    "LevelGaussian",
    "Mapping",
    "Measured",
    "MixedPrecision",
    "MonteCarloEvaluation",
    "NegativeFeedback",
    "Percentile",
    "Polynomial",
    "PreliminaryConvergence",
    "ProgrammingCurve",
    "ProgrammingReport",
    "ReadBackChip",
    "RightCensoredGaussian",
    "RightCensoredTraining",
    "RightTruncatedGaussian",
    "SaturatingExponential",
    "SelectiveWriteVerify",
    "Sensitivity",
    "SharedBlock",
    "SharedBlockReport",
    "ShiftedGaussian",
    "StructuredSparsity",
    "Table",
    "TinySharedBlock",
    "TuningResult",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Uniform",
    "Variation",
    "VariationInjection",
    "VerifiedChip",
    "WorstCaseResult",
    "WorstCaseSearch",
    "WriteVerify",
    "chip_logits",
    "chip_weights",
    "criterion_call",
    "deployed_chip",
    "evaluate_chips",
    "export_state_dict",
    "feedback_logits",
    "fit_temperature",
    "in_situ_training",
    "insert_shared_block",
    "kernel_orthogonality",
    "named_blocks",
    "on_chip",
    "program",
    "recalibrate_batchnorm",
    "remove_shared_block",
    "sensitivity",
    "snapshot_paths",
    "trace_blocks",
    "tune_right_censored",
    "worst_case",
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
