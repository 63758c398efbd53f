"""Chips programmed one after another, or side by side over workers and ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from lightning_cim._progress import progress_bar
from lightning_cim._ranks import Ranks
from lightning_cim._undisturbed import isolated_rng
from lightning_cim._workers import side_by_side
from lightning_cim.chip.population import Chip
from lightning_cim.programming.curve import Point
from lightning_cim.programming.cycles import Cycles, published_cycles
from lightning_cim.programming.journal import ScoreJournal
from lightning_cim.programming.score import Scorer
from lightning_cim.programming.selection import DeviceWeights, Ranking
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify


@dataclass(frozen=True)
class Bench:
    """What every chip of one run is programmed with.

    Attributes:
        scorer: Scores a chip.
        ranking: The order in which weights are verified.
        weights: Their target values.
        counts: How many are verified at each point.
        prices: Cycles of a verified and of an unverified weight.
        first: Chip 0 with nothing verified.
        ideal: Score without any deviation.
        max_drop: A chip is done when it is that close to the ideal; None: at the last point.
    """

    scorer: Scorer
    ranking: Ranking
    weights: Mapping[str, DeviceWeights]
    counts: Sequence[int]
    prices: tuple[float, float]
    first: VerifiedChip
    ideal: float
    max_drop: float | None

    def measured(self, journal: ScoreJournal, r: int) -> tuple[list[Point], bool]:
        """The points of a chip that are in the journal, and whether it was done with them."""
        row: list[Point] = []
        for index in range(len(self.counts)):
            point = journal.point(r, index)
            if point is None:
                return row, False
            row.append(point)
            if self._suffices(point):
                break
        return row, True

    def program(self, journal: ScoreJournal, r: int, advance: Callable[[int], None]) -> list[Point]:
        """All points of a chip, those in the journal and those that are measured now, which it gets."""
        row, is_done = self.measured(journal, r)
        advance(len(row))
        if is_done:
            return row
        chip = replace(self.first, index=r, settled={})
        cycles = _cycles(chip, self.weights, self.ranking, self.prices)
        for index in range(len(row), len(self.counts)):
            count = self.counts[index]
            # Every pass starts from the same random state, so that chips depend neither on each other nor on a restart.
            with isolated_rng(chip.seed):
                score = self.scorer(chip.verify(self.ranking.masks(count)))
            spent = cycles(count)
            row.append(Point(count / self.ranking.weights, spent.nwc_verify_only, spent.nwc_total, score))
            journal.add((r, index), row[-1]._asdict())
            advance(1)
            if self._suffices(row[-1]):
                break
        return row

    def _suffices(self, point: Point) -> bool:
        return self.max_drop is not None and self.scorer.drop(point.score, self.ideal) <= self.max_drop

    @property
    def on_accelerator(self) -> bool:
        """Whether chips compute elsewhere than on the CPU."""
        return _on_accelerator(self.scorer)


def program_chips(
    bench: Bench, chips: int, csv: Path | None, about: dict[str, Any], ranks: Ranks, workers: int, progress: bool
) -> list[list[Point]]:
    """The points of each chip, on every rank.

    Args:
        bench: What they are programmed with.
        chips: How many.
        csv: As :func:`program`.
        about: What is run, for the csv.
        ranks: Who shares the chips.
        workers: As :func:`program`.
        progress: Whether to show a progress bar.
    """
    with ranks.together():
        journal = ScoreJournal(csv, about, ranks)
    journal.share()
    mine = ranks.share([r for r in range(chips) if not bench.measured(journal, r)[1]])
    points = len(bench.counts)
    bar = progress_bar(progress and ranks.is_first, "programming", points * len(mine))
    with ranks.together(), ranks.alone(), bar as advance:
        if workers == 1:
            for r in mine:
                row = bench.program(journal, r, advance)
                advance(points - len(row))
        else:  # a bar belongs to the process that draws it
            run = partial(bench.program, journal, advance=_nothing)
            for r, row in side_by_side(run, mine, workers, bench.on_accelerator):
                journal.rows.update({(r, index): point._asdict() for index, point in enumerate(row)})
                advance(points)
    journal.finish()
    return [bench.measured(journal, r)[0] for r in range(chips)]


def score_chips(scorer: Scorer, chips: Sequence[Chip], seed: int, ranks: Ranks, workers: int) -> list[float]:
    """One score a chip, on every rank."""

    def score(index: int) -> float:
        with isolated_rng(seed):
            return scorer(chips[index])

    found: dict[int, float] = {}
    mine = ranks.share(list(range(len(chips))))
    with ranks.together(), ranks.alone():
        found.update(side_by_side(score, mine, workers, _on_accelerator(scorer)))
    scores = {index: score for share in ranks.gather(found) for index, score in share.items()}
    return [scores[index] for index in range(len(chips))]


def _on_accelerator(scorer: Scorer) -> bool:
    return any(parameter.device.type != "cpu" for parameter in scorer.model.parameters())


def _nothing(steps: int) -> None:
    """Stands for a bar."""


def _cycles(
    chip: VerifiedChip, weights: Mapping[str, DeviceWeights], ranking: Ranking, prices: tuple[float, float]
) -> Callable[[int], Cycles]:
    """Cycles of one chip as a function of how many weights are verified."""
    if not isinstance(chip.residual, WriteVerify):
        return lambda count: published_cycles(count, ranking.weights, *prices)
    each = ranking.in_order({name: chip.settle(name, found.value).cycles for name, found in weights.items()})
    total = each.long().cumsum(0)

    def simulated(count: int) -> Cycles:
        return Cycles(float(ranking.weights), float(total[count - 1]) if count else 0.0, float(total[-1]))

    return simulated
