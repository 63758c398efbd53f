"""What a device does to a value. Needs torch only."""

from lightning_cim.variation.base import Composed, SigmaRef, Variation
from lightning_cim.variation.conductance import Device, Polynomial, SaturatingExponential, Table
from lightning_cim.variation.encoding import Encoding
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
from lightning_cim.variation.measured import Measured
from lightning_cim.variation.uniform import Uniform

__all__ = [
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
    "SigmaRef",
    "Table",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Uniform",
    "Variation",
]
