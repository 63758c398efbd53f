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
from lightning_cim.variation.levels import LevelGaussian
from lightning_cim.variation.uniform import Uniform

__all__ = [
    "Composed",
    "Gaussian",
    "LeftCensoredGaussian",
    "LevelGaussian",
    "RightCensoredGaussian",
    "RightTruncatedGaussian",
    "ShiftedGaussian",
    "SigmaRef",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Uniform",
    "Variation",
]
