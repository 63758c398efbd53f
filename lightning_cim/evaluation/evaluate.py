"""Evaluate a module over simulated chips."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict, overload

from torch import nn
from torch.utils._pytree import tree_flatten

from lightning_cim._compiled import compiled_from
from lightning_cim._digest import digest
from lightning_cim._journal import Journal, Key, Layout, Row
from lightning_cim._progress import progress_bar
from lightning_cim._ranks import Ranks, ranks_of, same_on_all_ranks
from lightning_cim._undisturbed import isolated_rng
from lightning_cim._workers import side_by_side
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.evaluation.journal import CHIP_TIMES, CHIPS
from lightning_cim.evaluation.memory import kept_memory
from lightning_cim.evaluation.passes import ChipPasses, Stage, loaders_of, quiet
from lightning_cim.evaluation.percentile import chips_needed
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.evaluation.retention_result import RetentionResult
from lightning_cim.evaluation.times import aged, increasing
from lightning_cim.variation.base import Variation


@overload
def evaluate_chips(
    trainer: Any,
    model: Any,
    data: Any = None,
    *,
    variation: Variation,
    chips: int,
    seed: int = 0,
    mapping: Mapping | None = None,
    stage: Stage = "test",
    k: float = 1.0,
    csv: str | Path | None = None,
    workers: int = 1,
    lower_is_better: Sequence[str] | None = None,
    progress: bool = True,
    times: None = None,
) -> ChipResult: ...


@overload
def evaluate_chips(
    trainer: Any,
    model: Any,
    data: Any = None,
    *,
    variation: Variation,
    chips: int,
    seed: int = 0,
    mapping: Mapping | None = None,
    stage: Stage = "test",
    k: float = 1.0,
    csv: str | Path | None = None,
    workers: int = 1,
    lower_is_better: Sequence[str] | None = None,
    progress: bool = True,
    times: Sequence[str | float],
) -> RetentionResult: ...


def evaluate_chips(
    trainer: Any,
    model: Any,
    data: Any = None,
    *,
    variation: Variation,
    chips: int,
    seed: int = 0,
    mapping: Mapping | None = None,
    stage: Stage = "test",
    k: float = 1.0,
    csv: str | Path | None = None,
    workers: int = 1,
    lower_is_better: Sequence[str] | None = None,
    progress: bool = True,
    times: Sequence[str | float] | None = None,
) -> ChipResult | RetentionResult:
    """Test a module on simulated chips 0 .. chips-1: one chip for a whole pass over the data.

    Every metric that the module logs in its test (or validation) loop is collected. Masks and quantisation that the
    trainer's callbacks put on the module are kept; training noise is not. Chip r of a seed is the same whatever the
    batch size, the number of chips, workers or ranks. The module, the trainer and the global random state are given
    back as they were.

    With ``times`` every chip is tested at each time since programming: it is the same chip, with the same random
    numbers, of the variation ``variation.at(time)``.

    Under DDP each rank simulates its share of the chips (and times) over the whole data, and all ranks return the same
    result.

    Args:
        trainer: A ``lightning.pytorch`` or ``pytorch_lightning`` Trainer; gives device, precision and batch limits.
        model: The LightningModule.
        data: A loader, a LightningDataModule, or None for the module's own loaders. It is read once if it fits in
            memory, so it should not be shuffled or augmented.
        variation: What devices do to a value.
        chips: How many, at least 1. The k-th percentile wants at least 10 / (k / 100).
        seed: The population.
        mapping: Which parameters lie on crossbars; default: every matrix weight.
        stage: ``"test"`` or ``"validate"``.
        k: The percentile to warn about when there are too few chips.
        csv: Write each chip here as soon as it is done; a killed run given the same path continues at the next chip,
            or the next time of a chip; chips and times can be added later.
            Ranks write ``csv.rank0``, ``csv.rank1``, ... until rank 0 has written the whole file; the next start may
            have more or fewer of them.
        workers: Processes that simulate chips side by side, one thread each. CPU only.
        lower_is_better: Metrics for which lower is better; None: judged by their names (``loss``, ``error``, ...).
        progress: Whether to show a progress bar over passes (chips, or chips and times).
        times: Since programming, increasing: seconds, or texts such as ``"1h"`` with one of the units s, min, h, d, mo
            (30 days) and y (365 days). None: the variation at its own time.

    Returns:
        The metrics of every chip and their statistics; with ``times`` those of each time.

    Raises:
        ValueError: Arguments out of range, a mapping that fits nothing, NaN weights, no such loop or loader, no logged
            metric, or a csv of another evaluation. Times that do not increase or at which the variation is not known,
            and a variation in which nothing depends on time.
    """
    _check_arguments(chips, workers, stage)
    model = compiled_from(model)
    seconds = None if times is None else increasing(times)
    if chips < chips_needed(k):
        warnings.warn(
            f"{chips} chips are few for the {k:g} % percentile: it is then little more than the minimum. Use at least"
            f" {chips_needed(k)}.",
            stacklevel=2,
        )
    population = ChipPopulation(model, variation, seed, mapping)
    variations = None if seconds is None else aged(variation, seconds)
    about = {"variation": str(variation), "seed": seed, "stage": stage, "mapping": repr(population[0].mapping)}
    shown = {name: about[name] for name in ("variation", "seed", "stage")}
    better = None if lower_is_better is None else tuple(lower_is_better)
    with ranks_of(trainer) as ranks:
        with ranks.together():
            loaders, datamodule = loaders_of(trainer, model, data, stage)
        with same_on_all_ranks(trainer, model):
            with ranks.together():
                if csv is not None:
                    about["fingerprint"] = _fingerprint(model, trainer, repr(about))
                passes = ChipPasses(trainer, model, loaders, stage, datamodule)
            how: _How = {"csv": csv, "about": about, "workers": workers, "progress": progress}
            if variations is None:
                rows = run_jobs(ranks, passes, population.__getitem__, range(chips), CHIPS, **how)
                return ChipResult.from_rows(rows, shown, better)
            populations = {time: replace(population, variation=later) for time, later in variations.items()}
            pairs = [(index, time) for index in range(chips) for time in populations]
            timed = run_jobs(ranks, passes, lambda pair: populations[pair[1]][pair[0]], pairs, CHIP_TIMES, **how)
            return RetentionResult.from_rows(timed, shown, better)


def run_chips(
    trainer: Any, passes: ChipPasses, chip: Callable[[int], Chip], chips: int, *, progress: bool = True
) -> dict[int, Row]:
    """Metrics of chips 0 .. chips-1, shared over ranks; every rank returns all of them."""
    with ranks_of(trainer) as ranks:
        return run_jobs(ranks, passes, chip, range(chips), CHIPS, progress=progress)


class _How(TypedDict):
    csv: str | Path | None
    about: dict[str, Any]
    workers: int
    progress: bool


def run_jobs(
    ranks: Ranks,
    passes: ChipPasses,
    chip: Callable[[Key], Chip],
    jobs: Sequence[Key],
    layout: Layout[Key],
    *,
    csv: str | Path | None = None,
    about: dict[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[Key, Row]:
    """Metrics of one pass for each job, shared over workers and ranks; every rank returns all of them.

    Args:
        ranks: Who shares the jobs.
        passes: What runs a chip.
        chip: The chip of a job.
        jobs: In the order in which they are run.
        layout: How the csv names a job.
        csv: As :func:`evaluate_chips`.
        about: What is evaluated, for the csv.
        workers: As :func:`evaluate_chips`.
        progress: Whether to show a progress bar over jobs.
    """
    wanted = set(jobs)
    title = "chips" if layout is CHIPS else "passes"
    with ranks.together():
        journal = Journal(None if csv is None else Path(csv), about or {}, layout, ranks)
    journal.share()
    todo = ranks.share([job for job in jobs if job not in journal.rows])
    done = sum(job in wanted for job in journal.rows)
    bar = progress_bar(progress and ranks.is_first, title, total=done + len(todo), done=done)
    with ranks.together(), ranks.alone(), isolated_rng(), quiet(), kept_memory(), bar as advance:
        for job, row in side_by_side(lambda job: passes.run(chip(job)), todo, workers, passes.on_accelerator):
            journal.add(job, row)
            advance()
    journal.finish()
    return {job: journal.rows[job] for job in jobs}


def _check_arguments(chips: int, workers: int, stage: str) -> None:
    for name, value in (("chips", chips), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if stage not in ("validate", "test"):
        raise ValueError(f"stage must be 'validate' or 'test', got {stage!r}")


def _fingerprint(model: nn.Module, trainer: Any, about: str) -> str:
    """A digest of weights, buffers, simulated hardware and settings: equal digests give equal chips."""
    hardware = [callback for callback in trainer.callbacks if getattr(callback, "simulates_hardware", False)]
    settings = [(type(callback).__name__, callback.settings, callback.state_dict()) for callback in hardware]
    limits = (str(trainer.precision), trainer.limit_val_batches, trainer.limit_test_batches)
    leaves, structure = tree_flatten([model.state_dict(), limits, *settings])
    return digest(about + str(structure), leaves)
