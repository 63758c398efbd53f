"""Evaluate a module over simulated chips."""

from __future__ import annotations

import multiprocessing
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten

from lightning_cim._digest import digest
from lightning_cim._progress import progress_bar
from lightning_cim._undisturbed import isolated_rng
from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.evaluation.journal import Journal, write_rows
from lightning_cim.evaluation.memory import kept_memory
from lightning_cim.evaluation.passes import ChipPasses, Stage, loaders_of, quiet
from lightning_cim.evaluation.percentile import chips_needed
from lightning_cim.evaluation.ranks import same_on_all_ranks
from lightning_cim.evaluation.result import ChipResult
from lightning_cim.variation.base import Variation

Row = dict[str, float]


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
) -> ChipResult:
    """Test a module on simulated chips 0 .. chips-1: one chip for a whole pass over the data.

    Every metric that the module logs in its test (or validation) loop is collected. Masks and quantisation that the
    trainer's callbacks put on the module are kept; training noise is not. Chip r of a seed is the same whatever the
    batch size, the number of chips, workers or ranks. The module, the trainer and the global random state are given
    back as they were.

    Under DDP each rank simulates its share of the chips over the whole data, and all ranks return the same result.

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
        csv: Write each chip here as soon as it is done; a killed run given the same path continues at the next chip.
            Ranks write ``csv.rank0``, ``csv.rank1``, ..., and rank 0 the whole file at the end.
        workers: Processes that simulate chips side by side, one thread each. CPU only.
        lower_is_better: Metrics for which lower is better; None: judged by their names (``loss``, ``error``, ...).
        progress: Whether to show a progress bar over chips.

    Returns:
        The metrics of every chip and their statistics.

    Raises:
        ValueError: Arguments out of range, a mapping that fits nothing, NaN weights, no such loop or loader, no logged
            metric, or a csv of another evaluation.
    """
    _check_arguments(chips, workers, stage)
    if chips < chips_needed(k):
        warnings.warn(
            f"{chips} chips are few for the {k:g} % percentile: it is then little more than the minimum. Use at least"
            f" {chips_needed(k)}.",
            stacklevel=2,
        )
    population = ChipPopulation(model, variation, seed, mapping)
    _start_ranks(trainer)
    loaders, datamodule = loaders_of(trainer, model, data, stage)
    about = {"variation": str(variation), "seed": seed, "stage": stage, "mapping": repr(population[0].mapping)}
    with same_on_all_ranks(trainer, model):
        if csv is not None:
            about["fingerprint"] = _fingerprint(model, trainer, repr(about))
        passes = ChipPasses(trainer, model, loaders, stage, datamodule)
        rows = run_chips(
            trainer, passes, population.__getitem__, chips, csv=csv, about=about, workers=workers, progress=progress
        )
        if csv is not None and trainer.world_size > 1 and trainer.is_global_zero:
            write_rows(Path(csv), about, rows)
    shown = {name: about[name] for name in ("variation", "seed", "stage")}
    return ChipResult.from_rows(rows, shown, None if lower_is_better is None else tuple(lower_is_better))


def run_chips(
    trainer: Any,
    passes: ChipPasses,
    chip: Callable[[int], Chip],
    chips: int,
    *,
    csv: str | Path | None = None,
    about: dict[str, Any] | None = None,
    workers: int = 1,
    progress: bool = True,
) -> dict[int, Row]:
    """Metrics of chips 0 .. chips-1, shared over workers and ranks; every rank returns all of them."""
    rank, ranks = trainer.global_rank, trainer.world_size
    # Each rank journals its own share, so that no two processes write one file.
    path = None if csv is None else Path(csv) if ranks == 1 else Path(f"{csv}.rank{rank}")
    journal = None if path is None else Journal(path, about or {})
    rows: dict[int, Row] = {} if journal is None else {r: row for r, row in journal.rows.items() if r < chips}
    todo = [index for index in range(rank, chips, ranks) if index not in rows]
    bar = progress_bar(progress and rank == 0, "chips", total=len(range(rank, chips, ranks)), done=len(rows))
    with isolated_rng(), quiet(), kept_memory(), bar as advance:
        for index, row in _simulate(passes, chip, todo, workers):
            rows[index] = row
            if journal is not None:
                journal.add(index, row)
            advance()
    return _gather(rows, ranks)


def _check_arguments(chips: int, workers: int, stage: str) -> None:
    for name, value in (("chips", chips), ("workers", workers)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if stage not in ("validate", "test"):
        raise ValueError(f"stage must be 'validate' or 'test', got {stage!r}")


def _simulate(
    passes: ChipPasses, chip: Callable[[int], Chip], todo: list[int], workers: int
) -> Iterator[tuple[int, Row]]:
    if workers == 1 or len(todo) < 2:
        for index in todo:
            yield index, passes.run(chip(index))
        return
    if passes.on_accelerator or "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("workers > 1 needs a CPU run on a system that can fork; use workers=1, or DDP over devices")
    _Worker.job = (passes, chip)
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_Worker.start) as pool:
            futures = {pool.submit(_Worker.run, index): index for index in todo}
            for future in as_completed(futures):
                yield futures[future], future.result()
    finally:
        _Worker.job = None


class _Worker:
    """What a forked process needs; it inherits the module and the data instead of pickling them."""

    job: tuple[ChipPasses, Callable[[int], Chip]] | None = None

    @staticmethod
    def start() -> None:
        torch.set_num_threads(1)  # a forked process must not enter the parent's thread pool

    @staticmethod
    def run(index: int) -> Row:
        assert _Worker.job is not None
        passes, chip = _Worker.job
        return passes.run(chip(index))


def _start_ranks(trainer: Any) -> None:
    """Start the other ranks and the process group where the strategy has some and no fit did it before."""
    if trainer.world_size == 1 or torch.distributed.is_initialized():
        return
    trainer.strategy.launcher.launch(trainer.strategy.setup_environment, trainer=trainer)


def _gather(rows: dict[int, Row], ranks: int) -> dict[int, Row]:
    if ranks == 1:
        return rows
    shares: list[dict[int, Row] | None] = [None] * ranks
    torch.distributed.all_gather_object(shares, rows)
    return {index: row for share in shares if share for index, row in share.items()}


def _fingerprint(model: nn.Module, trainer: Any, about: str) -> str:
    """A digest of weights, buffers, simulated hardware and settings: equal digests give equal chips."""
    hardware = [callback for callback in trainer.callbacks if getattr(callback, "simulates_hardware", False)]
    settings = [(type(callback).__name__, callback.settings, callback.state_dict()) for callback in hardware]
    limits = (str(trainer.precision), trainer.limit_val_batches, trainer.limit_test_batches)
    leaves, structure = tree_flatten([model.state_dict(), limits, *settings])
    return digest(about + str(structure), leaves)
