"""What a device does to a value. Needs torch only."""

from lightning_cim.variation.array_faults import StuckClusters, StuckLines
from lightning_cim.variation.base import SigmaRef, Variation
from lightning_cim.variation.composed import Composed
from lightning_cim.variation.conductance import Device, Polynomial, SaturatingExponential, Table
from lightning_cim.variation.device_and_cycle import DeviceAndCycle
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.faults import StuckAt
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
from lightning_cim.variation.read_noise import ReadNoise
from lightning_cim.variation.temporal import Drift, Relaxation
from lightning_cim.variation.uniform import Uniform

__all__ = [
    "Composed",
    "Device",
    "DeviceAndCycle",
    "Drift",
    "Encoding",
    "Gaussian",
    "LeftCensoredGaussian",
    "LevelGaussian",
    "Measured",
    "Polynomial",
    "ReadNoise",
    "Relaxation",
    "RightCensoredGaussian",
    "RightTruncatedGaussian",
    "SaturatingExponential",
    "ShiftedGaussian",
    "SigmaRef",
    "StuckAt",
    "StuckClusters",
    "StuckLines",
    "Table",
    "TwoSidedCensoredGaussian",
    "UnbiasedRightCensoredGaussian",
    "Uniform",
    "Variation",
]
