"""One sweep file, run by W&B agents or offline: ``python -m lightning_cim.sweep recipes/sweeps/ecg.yaml --offline``."""

from __future__ import annotations

from lightning_cim.sweep.parameters import Parameter
from lightning_cim.sweep.report import folder_of_run, report
from lightning_cim.sweep.runner import SweepResult, run_offline
from lightning_cim.sweep.sweep_file import SweepFile

__all__ = ["Parameter", "SweepFile", "SweepResult", "folder_of_run", "report", "run_offline"]
