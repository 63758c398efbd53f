"""Logits of a classifier over simulated chips, in plain PyTorch: what the uncertainty metrics take."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_cim._undisturbed import evaluating
from lightning_cim.chip.criterion import criterion_call
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.chip.scope import on_chip
from lightning_cim.evaluation.loaders import Batches, loader_of
from lightning_cim.evaluation.margin import class_rows
from lightning_cim.evaluation.memory import kept_memory
from lightning_cim.variation.base import Variation


def chip_logits(
    model: nn.Module,
    data: Any,
    variation: Variation,
    chips: int,
    seed: int = 0,
    mapping: Mapping | None = None,
) -> tuple[Tensor, Tensor]:
    """Class logits on simulated chips 0 .. chips-1: one chip for a whole pass over the data.

    The chips are those of :func:`evaluate_chips` with the same seed. The network computes in eval mode and is given
    back as it was. Positions of a segmentation count as samples; binary and multi-label predictions count one sample
    a label, with the logits (0, z). Ignored targets are left out.

    Args:
        model: A LightningModule, whose unchanged ``training_step`` tells logits and target, or any module with
            (inputs, target) batches. On its device.
        data: A loader, an iterable of batches or a data set, neither shuffled nor augmented; or a LightningDataModule,
            whose test data are used.
        variation: What devices do to a value.
        chips: How many, at least 1.
        seed: The population.
        mapping: Which parameters lie on crossbars; default: every matrix weight.

    Returns:
        float32 logits (chips, samples, classes) and class indices (samples,), both on the CPU.

    Raises:
        ValueError: Arguments out of range, a criterion that is no classification, or data without a prediction.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> from lightning_cim import Gaussian
        >>> data = TensorDataset(torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1]))
        >>> logits, target = chip_logits(nn.Linear(4, 3), data, Gaussian(sigma=0.1), chips=2)
        >>> tuple(logits.shape), tuple(target.shape)
        ((2, 5, 3), (5,))
    """
    if chips < 1:
        raise ValueError(f"chips must be at least 1, got {chips}")
    population, batches = (
        ChipPopulation(model, variation, seed, mapping),
        Batches(loader_of(data, "test_dataloader", "test")),
    )
    with kept_memory():
        passes = [_pass(model, population[index], batches) for index in range(chips)]
    return torch.stack([logits for logits, _ in passes]), passes[0][1]


def _pass(model: nn.Module, chip: Chip, batches: Batches) -> tuple[Tensor, Tensor]:
    logits, targets = [], []
    with evaluating(model), torch.no_grad(), on_chip(model, chip):
        for index, batch in enumerate(batches):
            call = criterion_call(model, batch, index)
            if not call.is_classification:
                raise ValueError(
                    f"{type(model).__name__} computes {call.function.__name__}, which has no class logits; uncertainty"
                    " metrics are for classifiers"
                )
            rows, target = class_rows(call)
            logits.append(rows.float().cpu())
            targets.append(target.cpu())
    if not any(map(len, targets)):
        raise ValueError("the data gave no batch with a prediction to score")
    return torch.cat(logits), torch.cat(targets)
