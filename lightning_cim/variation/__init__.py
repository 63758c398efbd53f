"""What a device does to a value. Needs torch only."""

from lightning_cim.variation.base import Composed, SigmaRef, Variation
from lightning_cim.variation.gaussian import (
    Gaussian,
    LeftCensoredGaussian,
    RightCensoredGaussian,
    RightTruncatedGaussian,
    ShiftedGaussian,
    TwoSidedCensoredGaussian,
    UnbiasedRightCensoredGaussian,
)

__all__ = [
    "Composed",
    "Gaussian",
    "LeftCensoredGaussian",
    "RightCensoredGaussian",
    "RightTruncatedGaussian",
    "ShiftedGaussian",
    "SigmaRef",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Variation",
]
