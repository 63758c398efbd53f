"""How a run tells its sweep what came out: one function for W&B's agents and for offline sweeps."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, SupportsFloat

METRICS_FILE = "LIGHTNING_CIM_METRICS"
"""Environment variable by which an offline sweep names the file that it reads."""
RUN_ID = "WANDB_RUN_ID"
"""Environment variable by which W&B's agents, and offline sweeps, tell runs apart."""


def report(metrics: Mapping[str, Any]) -> None:
    """Tell the sweep that this process is a run of, if it is, and W&B's current run, if there is one.

    Args:
        metrics: Final results by name, nested ones too; what is not a finite number is left out.

    Example:
        >>> report({"cim/acc_mean": 0.93})  # outside of a sweep nothing happens
    """
    numbers = numbers_of(metrics)
    where = os.environ.get(METRICS_FILE)
    if where:
        path = Path(where)
        old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({**old, **numbers}, indent=1), encoding="utf-8")
        part.replace(path)
    if "WANDB_SWEEP_ID" in os.environ or "wandb" in sys.modules:
        _to_wandb(numbers)


def numbers_of(metrics: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The finite numbers in a nested mapping, under names joined by slashes.

    Example:
        >>> numbers_of({"psnr": 31.5, "chips": {"0.1": {"mean": 28}}, "image": "astronaut", "gap": float("nan")})
        {'psnr': 31.5, 'chips/0.1/mean': 28.0}
    """
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            found |= numbers_of(value, f"{prefix}{name}/")
        elif isinstance(value, SupportsFloat) and not isinstance(value, bool) and math.isfinite(number := float(value)):
            found[f"{prefix}{name}"] = number
    return found


def folder_of_run(default: str) -> str:
    """Where a run writes if nobody says so: each run of a sweep has a folder of its own.

    Args:
        default: Outside of sweeps.
    """
    run = os.environ.get(RUN_ID)
    return f"{default}/{run}" if run else default


def _to_wandb(numbers: Mapping[str, float]) -> None:
    import wandb

    began = wandb.run is None and "WANDB_SWEEP_ID" in os.environ  # an agent waits for a run
    run = wandb.init() if began else wandb.run
    if run is None:
        return
    run.summary.update(dict(numbers))
    if began:
        run.finish()
