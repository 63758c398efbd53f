"""Batch-norm statistics that fit the weights the network really computes with."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from lightning_cim._undisturbed import in_eval_mode
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import on_chip


@torch.no_grad()
def recalibrate_batchnorm(
    model: nn.Module, batches: Iterable[Any], chip: Chip | None = None, max_batches: int | None = None
) -> int:
    """Re-estimate the running mean and variance of every batch-norm layer as plain averages over batches.

    Training under variation, pruning and quantisation all move activations away from the statistics that were
    collected; a few forward passes mend that. Weights and gradients are untouched, and modules keep their train or eval
    mode.

    Args:
        model: The module; called as ``model(inputs)``.
        batches: Inputs, or tuples whose first element is the input, on the model's device.
        chip: Estimate on this chip (what a calibration on the real device does); default: on the model as it is.
        max_batches: Stop after so many.

    Returns:
        The number of batches used.

    Raises:
        ValueError: No batch, or no batch-norm layer with running statistics.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
        >>> recalibrate_batchnorm(net, [torch.randn(8, 2), torch.randn(8, 2)])
        2
    """
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise ValueError(
            f"{type(model).__name__} has no batch-norm layer with running statistics; nothing to recalibrate"
        )
    momenta = {norm: norm.momentum for norm in norms}
    used = 0
    try:
        with in_eval_mode(model), on_chip(model, chip) if chip is not None else nullcontext():
            for norm in norms:
                norm.train()
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
            for batch in batches:
                if max_batches is not None and used == max_batches:
                    break
                model(batch[0] if isinstance(batch, (tuple, list)) else batch)
                used += 1
    finally:
        for norm, momentum in momenta.items():
            norm.momentum = momentum
    if not used:
        raise ValueError(
            "recalibrate_batchnorm got no batch: its statistics were reset and need data; pass at least one"
        )
    return used
