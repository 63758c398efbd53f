"""In-situ training: the baseline that repairs a chip by training on it instead of by verifying its weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_cim._data import CachedLoader
from lightning_cim._undisturbed import evaluating
from lightning_cim.chip.criterion import criterion_call
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.chip.scope import on_chip
from lightning_cim.programming.curve import Point, ProgrammingCurve, curve_of
from lightning_cim.programming.cycles import Cycles, published_cycles
from lightning_cim.programming.loaders import loaders_of
from lightning_cim.programming.score import Scorer
from lightning_cim.programming.selection import device_weights
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import Gaussian


def in_situ_training(
    model: nn.Module,
    data: Any,
    variation: Variation,
    *,
    iterations: int = 100,
    lr: float = 0.01,
    score_every: int = 10,
    validation: Iterable[Any] | None = None,
    chips: int = 20,
    seed: int = 0,
    mapping: Mapping | None = None,
    cycles_per_verified_weight: float = 10.0,
    cycles_per_unverified: float = 1.0,
) -> ProgrammingCurve:
    """Train each chip by stochastic gradient descent, writing every weight again at each iteration, never verifying.

    SWIM's costliest baseline (arXiv 2202.08395). An iteration takes the gradient of one batch on the chip as it is,
    moves the targets by ``-lr`` times it, and writes all weights to their new targets, each with a fresh error: one
    cycle a weight. The targets are kept digitally, so that write errors do not pile up, which is kind to the baseline.
    Batch norm keeps its statistics and dropout is off. What lies between two writes (the gradient's own hardware) is
    free here.

    The first write is that of chip r in :func:`program` with the same seed, so both curves begin at the same scores.
    The model is given back as it was, bit for bit.

    Args:
        model: The trained module.
        data: Training batches, used in turn; or a datamodule.
        variation: The error of each write.
        iterations: Batches to train each chip on, at least 1.
        lr: Learning rate of plain SGD, > 0.
        score_every: Iterations between two points of the curve, at least 1.
        validation: Batches to score on; default: the training batches.
        chips: How many, at least 1.
        seed: Of the chips and their writes.
        mapping: Which parameters lie on crossbars; default: every matrix weight. The others are trained too, digitally.
        cycles_per_verified_weight: As in :func:`program`: what NWC is relative to.
        cycles_per_unverified: Cycles of one write.

    Returns:
        Score against write cycles, the fraction of verified weights being 0 throughout.

    Raises:
        ValueError: Numbers out of range, a mapping that fits nothing, NaN weights, or no batch.
    """
    for name, value in (("iterations", iterations), ("score_every", score_every), ("chips", chips)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if not lr > 0:
        raise ValueError(f"lr must be > 0, got {lr!r}")
    mapping = ChipPopulation(model, variation, seed, mapping)[0].mapping  # checks mapping and weights
    training, validation = loaders_of(data, validation)
    cache = CachedLoader(training)
    prices = (cycles_per_verified_weight, cycles_per_unverified)
    about = {
        "variation": str(variation),
        "seed": seed,
        "lr": lr,
        "scored on": "training data" if validation is None else "validation data",
    }
    rows = []
    with evaluating(model, seed):
        total = sum(
            found.value.numel() if found.exists is None else int(found.exists.sum())
            for found in device_weights(model, mapping).values()
        )
        scorer = Scorer(model, cache if validation is None else validation)
        ideal = scorer(Chip(Gaussian(0.0), seed, 0, mapping))
        for r in range(chips):
            if not cache.is_complete:  # a chip that did not see all of the data leaves none of its order to the next
                cache.forget()
            chip = Chip(variation, seed, r, mapping)
            row = [_point(0, total, prices, scorer(chip))]
            with _restored(model):
                batches = _endless(cache)
                for iteration in range(1, iterations + 1):
                    _step(model, chip, next(batches), lr)
                    chip = chip.rewritten()
                    if iteration % score_every == 0 or iteration == iterations:
                        row.append(_point(iteration, total, prices, scorer(chip)))
            rows.append(row)
    return curve_of(rows, "in-situ training", str(scorer.name), ideal, about)


def _step(model: nn.Module, chip: Chip, batch: Any, lr: float) -> None:
    """Move the targets against the gradient that the chip sees."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with on_chip(model, chip):
        gradients = torch.autograd.grad(criterion_call(model, batch).loss(), parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(gradient, alpha=lr)


def _point(iteration: int, weights: int, prices: tuple[float, float], score: float) -> Point:
    """Every iteration writes each weight once."""
    scale = published_cycles(0, weights, *prices)
    spent = Cycles(scale.writing, iteration * scale.writing, scale.verifying_all)
    return Point(0.0, spent.nwc_verify_only, spent.nwc_total, score)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty:
            raise ValueError("there is no batch to train on; look at the loader")


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Give every parameter its values back after the block."""
    parameters = list(model.parameters())
    values = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, values, strict=True):
                parameter.copy_(value)
