"""Program a model's weights with selective write-verify (SWIM)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lightning_cim._ranks import ranks_of, same_on_all_ranks
from lightning_cim._undisturbed import evaluating, isolated_rng
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.programming.bench import Bench, program_chips, score_chips
from lightning_cim.programming.curve import curve_of
from lightning_cim.programming.cycles import check_prices
from lightning_cim.programming.journal import fingerprint
from lightning_cim.programming.loaders import loaders_of
from lightning_cim.programming.report import HeldOutScores, ProgrammingReport
from lightning_cim.programming.score import Scorer
from lightning_cim.programming.selection import METHODS, Ranking, SelectionMethod, device_weights, rank
from lightning_cim.programming.sensitivity import Method, Sensitivity
from lightning_cim.programming.sensitivity import sensitivity as sensitivity_of
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify, default_residual
from lightning_cim.variation.base import Variation
from lightning_cim.variation.gaussian import Gaussian


def program(
    model: nn.Module,
    data: Any,
    variation: Variation,
    *,
    verify_fraction: float | None = None,
    max_drop: float | None = None,
    granularity: float = 0.05,
    method: SelectionMethod = "swim",
    sensitivity: Method | Sensitivity = "auto",
    validation: Iterable[Any] | None = None,
    test: Iterable[Any] | None = None,
    chips: int = 20,
    seed: int = 0,
    mapping: Mapping | None = None,
    residual: Variation | None = None,
    simulate: bool | WriteVerify | None = None,
    cycles_per_verified_weight: float = 10.0,
    cycles_per_unverified: float = 1.0,
    max_batches: int | None = None,
    csv: str | Path | None = None,
    trainer: Any = None,
    workers: int = 1,
    progress: bool = True,
) -> ProgrammingReport:
    """Write every weight once, then write-verify the most sensitive ones, a few per cent at a time.

    SWIM (arXiv 2202.08395): weights are ranked once, by the rise of the loss that their variation is expected to cause;
    along this ranking ``granularity`` of them is verified at a time, and each chip is scored after each step. With
    ``max_drop`` a chip is done as soon as it is that close to the ideal; with ``verify_fraction`` every chip is taken
    to that fraction. Chip r is chip r of :class:`ChipPopulation` with the same seed, and devices that were written keep
    what they hold while others are verified. A chip stops at the first point that passes, by luck at times, so its drop
    on other data may exceed the budget: ``test`` shows by how much.

    The score is the accuracy where the model's criterion is a classification, else the mean loss (lower is better). The
    criterion is found as :func:`criterion_call` does, so LightningModules and plain modules work alike. Masks and
    quantisation that callbacks have put on the model apply. The model, its modes and all random states are given back
    as they were.

    Args:
        model: The trained module.
        data: Training batches, from which the sensitivity is computed; or a LightningDataModule (or a LightningModule
            with loaders of its own), whose training and validation loaders are used.
        variation: How a weight deviates that is only written.
        verify_fraction: Share of weights to verify, 0 to 1. Give either this or ``max_drop``.
        max_drop: How far below the ideal the score may stay, in its own units (0.01: one point of accuracy), >= 0.
        granularity: Share of weights to verify at a time, 0 < granularity <= 1.
        method: ``"swim"``, or the baselines ``"magnitude"`` (largest first) and ``"random"``.
        sensitivity: How it is computed (see :func:`lightning_cim.sensitivity`), or one that was computed before.
        validation: Batches on which chips are scored and the stop is decided. Default: the training batches, which
            flatters a network that overfits.
        test: Batches on which the chips are scored once, as they were left; nothing is chosen by them.
        chips: How many, at least 1.
        seed: Of the chips, and of the ``"random"`` ranking.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        residual: How verified weights deviate; default: ``Gaussian(0.03)`` in the convention of ``variation``.
        simulate: Simulate the write-verify loop of each weight instead, and count its real cycles: True for the default
            :class:`WriteVerify`.
        cycles_per_verified_weight: Price of a verified weight, its first write included, as published; without effect
            when simulating.
        cycles_per_unverified: Price of a weight that is only written.
        max_batches: Compute the sensitivity from so many batches at most.
        csv: Write each score here as soon as it is measured; a killed run given the same path goes on where it was,
            with as many workers and ranks as you like. Ranks write ``csv.rank0``, ``csv.rank1``, ... until rank 0 has
            written the whole file.
        trainer: A Trainer whose device computes and whose ranks share the chips; each returns the same report. All of
            them must make this call. None: the module's device, and every process on its own.
        workers: Processes that program chips side by side, one thread each. CPU only.
        progress: Whether to show a progress bar.

    Returns:
        The curve of score against write cycles, what was verified, and the programmed chips. A budget that cannot be
        met even with every weight verified is no error: the report says so.

    Raises:
        ValueError: Arguments out of range, a mapping that fits nothing, NaN weights, no batch, or a csv of another run.
        RuntimeError: Another rank failed.

    Example:
        >>> import torch
        >>> from lightning_cim import Gaussian
        >>> net = nn.Linear(4, 2)
        >>> batches = [(torch.randn(8, 4), torch.randint(0, 2, (8,)))]
        >>> report = program(
        ...     net, batches, Gaussian(0.1), verify_fraction=0.5, granularity=0.25, method="magnitude", chips=2,
        ...     progress=False,
        ... )
        >>> report.fraction, report.nwc.verify_only, report.nwc.total
        (0.5, 0.5, 0.55)
    """
    check_arguments(variation, verify_fraction, max_drop, granularity, method, chips, residual, simulate)
    check_prices(cycles_per_verified_weight, cycles_per_unverified)
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    mapping = ChipPopulation(model, variation, seed, mapping)[0].mapping  # checks mapping and weights
    loop = WriteVerify() if simulate is True else simulate or None
    verifying: Variation | WriteVerify = loop or residual or default_residual(variation)
    _warn_if_useless(verifying, variation)
    about: dict[str, Any] = {"variation": str(variation), "residual": str(verifying), "seed": seed}
    with ExitStack() as stack:
        ranks = stack.enter_context(ranks_of(trainer))
        with ranks.together():
            training, validation = loaders_of(data, validation)
        stack.enter_context(same_on_all_ranks(trainer, model))
        if trainer is not None:
            stack.enter_context(_on_device(model, trainer.strategy.root_device))
        stack.enter_context(evaluating(model, seed))
        about["scored on"] = "training data" if validation is None else "validation data"
        clean = Chip(Gaussian(0.0), seed, 0, mapping)
        with ranks.together(), ranks.alone():
            weights = device_weights(model, mapping)
            values = None
            if method == "swim":
                if not isinstance(sensitivity, Sensitivity):
                    sensitivity = sensitivity_of(
                        model, training, sensitivity, mapping=mapping, max_batches=max_batches, seed=seed
                    )
                values = sensitivity.values
                about["sensitivity"] = f"{sensitivity.method}, {sensitivity.samples} samples"
            ranking = rank(weights, method, sensitivity=values, variation=variation, seed=seed)
            if not ranking.weights:
                raise ValueError("every mapped weight is pruned; there is nothing to program")
            scorer = Scorer(model, training if validation is None else validation)
            with isolated_rng(seed):  # as every chip, so that a loader that shuffles gives all of them the same order
                ideal = scorer(clean)
        # An accelerator may add up in another order on each rank; there is one selection.
        ranking, ideal = ranks.of_first((ranking, ideal))
        bench = Bench(
            scorer=scorer,
            ranking=ranking,
            weights=weights,
            counts=_counts(ranking, granularity, 1.0 if verify_fraction is None else verify_fraction),
            prices=(cycles_per_verified_weight, cycles_per_unverified),
            first=VerifiedChip(variation, seed, 0, mapping, residual=verifying),
            ideal=ideal,
            max_drop=max_drop,
        )
        head = {"method": method, "score": scorer.name, "ideal": ideal, **about}
        if csv is not None:
            settings = (repr(head), repr(mapping), bench.counts, bench.prices)
            head["fingerprint"] = fingerprint(model, ranking.order, settings)
        rows = program_chips(bench, chips, None if csv is None else Path(csv), head, ranks, workers, progress)
        stops = np.array([bench.counts[len(row) - 1] for row in rows])
        last = [scorer.drop(row[-1].score, ideal) for row in rows]
        met = np.array([max_drop is None or drop <= max_drop for drop in last])
        report = ProgrammingReport(
            curve_of(rows, method, str(scorer.name), ideal, about),
            ranking,
            stops,
            max_drop,
            met,
            None,
            variation,
            verifying,
            seed,
            mapping,
        )
        if test is None:
            return report
        found = score_chips(Scorer(model, test), [clean, *map(report.chip, range(chips))], seed, ranks, workers)
        return replace(report, test=HeldOutScores(found[0], np.array(found[1:])))


def check_arguments(
    variation: object,
    verify_fraction: float | None,
    max_drop: float | None,
    granularity: float,
    method: str,
    chips: int,
    residual: object,
    simulate: object,
) -> None:
    """Refuse what :func:`program` could not do, before anything runs.

    Raises:
        ValueError: Says which argument, and what it should be.
    """
    if not isinstance(variation, Variation):
        raise ValueError(f"variation must be a Variation such as Gaussian(sigma=0.1), got {variation!r}")
    if (verify_fraction is None) == (max_drop is None):
        raise ValueError(
            "give either verify_fraction (the share of weights to verify) or max_drop (how far the score may fall),"
            f" {'not both' if max_drop is not None else 'for example max_drop=0.01'}"
        )
    if verify_fraction is not None and not 0 <= verify_fraction <= 1:
        raise ValueError(f"verify_fraction is a share of the weights, 0 to 1, got {verify_fraction!r}")
    if max_drop is not None and not 0 <= max_drop < math.inf:
        raise ValueError(f"max_drop must be a finite number >= 0 in the score's own units, got {max_drop!r}")
    if not 0 < granularity <= 1:
        raise ValueError(f"granularity is a share of the weights, 0 < granularity <= 1, got {granularity!r}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if chips < 1:
        raise ValueError(f"chips must be at least 1, got {chips}")
    if residual is not None and not isinstance(residual, Variation):
        raise ValueError(f"residual must be a Variation such as Gaussian(sigma=0.03), got {residual!r}")
    if simulate is not None and not isinstance(simulate, (bool, WriteVerify)):
        raise ValueError(f"simulate must be True or a WriteVerify, got {simulate!r}")
    if simulate and residual is not None:
        raise ValueError("give either residual or simulate: a simulated loop finds its own residual")


def _warn_if_useless(verifying: Variation | WriteVerify, variation: Variation) -> None:
    if isinstance(verifying, Variation) and verifying.std >= variation.std > 0:
        warnings.warn(
            f"the residual of verified weights ({verifying}) is no smaller than the variation itself ({variation}), so"
            " verifying does not help",
            stacklevel=3,
        )


def _counts(ranking: Ranking, granularity: float, fraction: float) -> list[int]:
    """How many weights are verified at each point: 0, one granularity, two, ..., and the fraction itself."""
    steps = math.ceil(round(fraction / granularity, 9))
    fractions = [min(step * granularity, fraction) for step in range(steps + 1)]
    return list(dict.fromkeys(ranking.count(share) for share in fractions))  # tiny models: no step of no weight


@contextmanager
def _on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The module on a device; afterwards where it was."""
    before = next((parameter.device for parameter in model.parameters()), device)
    model.to(device)
    try:
        yield
    finally:
        model.to(before)
