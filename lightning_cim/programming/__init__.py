"""Programming a chip with as few write cycles as possible. Needs torch and numpy only."""

from lightning_cim.programming.curve import ProgrammingCurve
from lightning_cim.programming.in_situ import in_situ_training
from lightning_cim.programming.program import program
from lightning_cim.programming.report import ProgrammingReport
from lightning_cim.programming.sensitivity import Sensitivity, sensitivity
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.programming.write_verify_curve import WriteVerifyCurve, WriteVerifyPoint, write_verify_curve

__all__ = [
    "ProgrammingCurve",
    "ProgrammingReport",
    "Sensitivity",
    "VerifiedChip",
    "WriteVerify",
    "WriteVerifyCurve",
    "WriteVerifyPoint",
    "in_situ_training",
    "program",
    "sensitivity",
    "write_verify_curve",
]
