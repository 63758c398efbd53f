"""The loop: ask for designs, check limits, evaluate, write down, tell."""

from __future__ import annotations

import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from lightning_cim._progress import progress_bar
from lightning_cim._workers import end_with_parent
from lightning_cim.codesign.cache import EvaluationCache
from lightning_cim.codesign.evaluator import Evaluator, Outcome
from lightning_cim.codesign.objective import INVALID, Objective
from lightning_cim.codesign.optimizers.base import Optimizer, Proposal
from lightning_cim.codesign.result import SearchResult
from lightning_cim.codesign.space import Design, Space
from lightning_cim.codesign.store import Progress, TrialStore
from lightning_cim.codesign.trial import Trial

PATIENCE = 3
"""Evaluations in a row that may break down; then the search stops, as something is wrong with all of them."""


class MetricLogger(Protocol):
    """What a search needs of a logger; Lightning's have it, such as ``WandbLogger(offline=True)``."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Numbers of one trial."""


class CoDesignSearch:
    """Searches a space of designs with an optimizer.

    Each proposal is one episode of the budget, also one that is invalid or was proposed before. A design beyond a limit
    is scored -1 from its hardware metrics alone and never reaches the evaluator; a design whose outcome is known is not
    evaluated again.

    A search with a folder can be killed at any time and continues where it was, with the same trials as without the
    interruption: the proposals and the optimizer's state are on disk before an evaluation begins, so that a language
    model is not asked twice.

    Args:
        space: What to search.
        evaluator: Scores designs.
        optimizer: Proposes them; fresh, also where a folder is continued.
        objective: Reward and limits.
        budget: Episodes; at least 1. A finished search may be continued with more.
        seed: Of the evaluations: the same for all designs, so that they are compared on the same chips. The
            optimizer's is its own.
        folder: Where to keep the search; None: in memory only.
        cache: Outcomes to share with other searches; default: this search's own.
        workers: Processes that evaluate designs side by side. Designs are proposed in batches of so many, and the
            trials depend on this number (not on which process is faster).
        loggers: Get the numbers of every trial; those of a continued search once.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: An option out of range, or the folder of another search.

    Example:
        >>> from lightning_cim.codesign import TabEvaluator, make_optimizer
        >>> space = Space.preset("digits")
        >>> optimizer, objective = make_optimizer("evolution", space, seed=0), Objective(limits={"area_mm2": 20.0})
        >>> search = CoDesignSearch(space, TabEvaluator(space), optimizer, objective, budget=30, progress=False)
        >>> len(search.run().trials)
        30
    """

    def __init__(
        self,
        space: Space,
        evaluator: Evaluator,
        optimizer: Optimizer,
        objective: Objective,
        budget: int,
        seed: int = 0,
        folder: str | os.PathLike[str] | None = None,
        *,
        cache: EvaluationCache | None = None,
        workers: int = 1,
        loggers: Sequence[MetricLogger] = (),
        progress: bool = True,
    ) -> None:
        for name, value in (("budget", budget), ("workers", workers)):
            if value < 1:
                raise ValueError(f"CoDesignSearch: {name} must be at least 1, got {value}")
        self.space, self.evaluator, self.optimizer, self.objective = space, evaluator, optimizer, objective
        self._budget, self._seed, self._workers = budget, seed, workers
        self._cache = cache or EvaluationCache(space, evaluator.version)
        self._loggers, self._bar = tuple(loggers), progress
        self.about: dict[str, Any] = {
            "space": {slot.name: list(slot.values) for slot in space.slots},
            "name": space.name,
            "evaluator": evaluator.version,
            "optimizer": optimizer.name,
            "objective": objective.to_dict(),
            "seed": seed,
            "workers": workers,
        }
        self._store = None if folder is None else TrialStore(folder, self.about)
        self._trials: list[Trial] = []
        self._seen: set[str] = set()
        self._now = Progress(seconds={"propose": 0.0, "evaluate": 0.0})
        self._best = -math.inf
        self._failures = 0

    def run(self) -> SearchResult:
        """Search until the budget is spent, or the optimizer has no more to propose.

        Raises:
            RuntimeError: Several evaluations in a row broke down. The search can be continued.
            BackendError: A language model did not answer, and its optimizer is to stop then. Likewise.
        """
        left = self._resume()
        with (
            _pool(self.evaluator, self._workers) as pool,
            progress_bar(self._bar, self.optimizer.name, self._budget, len(self._trials)) as advance,
        ):
            while left or len(self._trials) < self._budget:
                if not left and not (left := self._ask(min(self._workers, self._budget - len(self._trials)))):
                    break
                begun = time.perf_counter()
                for trial in self._evaluated(left, pool):
                    self._finish(trial)
                    advance(note=f"best {self._best:.4f}")
                    self._now.seconds["evaluate"] += time.perf_counter() - begun
                    begun = time.perf_counter()
                left = []
        if self._store is not None and self._now.optimizer:
            self._store.save(self._now)
        return SearchResult(self.space, self.objective, tuple(self._trials), self.about, dict(self._now.seconds))

    def _resume(self) -> list[Proposal]:
        """Take up what the folder holds; proposals that are not evaluated yet."""
        if self._store is None:
            return []
        self._trials = self._store.trials()
        self._seen = {self.space.key(trial.design) for trial in self._trials}
        self._best = max((trial.reward for trial in self._trials), default=-math.inf)
        found = self._store.progress()
        if found is None:
            if self._trials:
                raise ValueError("the search has trials but no progress.json: restore it, or delete the folder")
            return []
        done = len(self._trials) - found.told
        if not 0 <= done <= len(found.proposals):
            raise ValueError(
                f"the search has {len(self._trials)} trials, but its progress.json is at {found.told}: files of"
                " two runs"
            )
        self._now = found
        self.optimizer.load_state_dict(found.optimizer)
        self.optimizer.tell(self._trials[found.told :])
        return found.proposals[done:]

    def _ask(self, count: int) -> list[Proposal]:
        begun = time.perf_counter()
        proposals = self.optimizer.ask(self._trials, count)
        self._now.seconds["propose"] += time.perf_counter() - begun
        if self._store is not None:
            seconds = self._now.seconds
            self._now = Progress(len(self._trials), proposals, self.optimizer.state_dict(), seconds)
            self._store.save(self._now)
        return proposals

    def _evaluated(self, proposals: Sequence[Proposal], pool: Executor | None) -> Iterator[Trial]:
        """Trials in the order of the proposals."""
        for proposal in proposals:
            self.space.validate(proposal.design)
        costs = [self.evaluator.cost(proposal.design) for proposal in proposals]
        excess = [self.objective.violations(cost) for cost in costs]
        pending: dict[str, Callable[[], Outcome]] = {}
        for proposal, over in zip(proposals, excess, strict=True):
            key = self.space.key(proposal.design)
            if key not in pending and all(value <= 0 for value in over.values()):
                pending[key] = self._submitted(proposal.design, pool)
        number = len(self._trials)
        for proposal, cost, over in zip(proposals, costs, excess, strict=True):
            key = self.space.key(proposal.design)
            outcome = pending[key]() if key in pending else None
            yield self._trial(proposal, cost, over, outcome, number)
            number += 1

    def _submitted(self, design: Design, pool: Executor | None) -> Callable[[], Outcome]:
        """Begin an evaluation; what is returned waits for its outcome."""
        known = self._cache.get(design, self._seed)
        if known is not None:
            return lambda: known
        if pool is None:
            begin: Callable[[], Outcome] = lambda: guarded(self.evaluator, design, self._seed)  # noqa: E731
        else:
            begin = pool.submit(_Worker.evaluate, design, self._seed).result
        found: list[Outcome] = []

        def outcome() -> Outcome:
            if not found:
                found.append(begin())
                self._cache.put(design, self._seed, found[0])
            return found[0]

        return outcome

    def _trial(
        self, proposal: Proposal, cost: dict[str, float], over: dict[str, float], outcome: Outcome | None, number: int
    ) -> Trial:
        key = self.space.key(proposal.design)
        meta = {**proposal.meta, **({"duplicate": True} if key in self._seen else {})}
        self._seen.add(key)
        return scored(self.objective, proposal.design, meta, cost, over, outcome, number)

    def _finish(self, trial: Trial) -> None:
        self._trials.append(trial)
        if self._store is not None:
            self._store.add(trial)
        self.optimizer.tell([trial])
        self._best = max(self._best, trial.reward)
        numbers = {**trial.metrics, "reward": trial.reward, "best_reward": self._best}
        for logger in self._loggers:
            logger.log_metrics({f"codesign/{name}": value for name, value in numbers.items()}, step=trial.number)
        self._failures = self._failures + 1 if trial.status == "failed" else 0
        if self._failures >= PATIENCE:
            raise RuntimeError(
                f"{PATIENCE} evaluations in a row broke down, the last with: {trial.meta['reason']}. The search can be"
                " continued when the cause is mended"
            )


def scored(
    objective: Objective,
    design: Design,
    meta: dict[str, Any],
    cost: dict[str, float],
    over: dict[str, float],
    outcome: Outcome | None,
    number: int,
) -> Trial:
    """The trial of a design.

    Args:
        objective: Gives the reward.
        design: That was proposed.
        meta: Of the proposal.
        cost: Hardware metrics.
        over: By how much limits are exceeded, as of :meth:`Objective.violations`.
        outcome: None where a limit is exceeded.
        number: In the search.
    """
    if over:
        meta = {**meta, "violations": list(over.values())}
    if outcome is None:
        broken = [f"{name} {cost[name]:.4g} is more than {objective.limits[name]:g}" for name in over if over[name] > 0]
        finite = {name: value for name, value in cost.items() if math.isfinite(value)}
        return Trial(design, finite, INVALID, "invalid", {**meta, "reason": "; ".join(broken)}, number)
    reason = outcome.reason
    if outcome.status == "ok":
        reward = objective.reward(outcome.metrics)
        unusable = [name for name, value in {**outcome.metrics, "reward": reward}.items() if not math.isfinite(value)]
        if not unusable:
            return Trial(design, dict(outcome.metrics), reward, "ok", meta, number)
        reason = f"not finite: {', '.join(unusable)}"
    finite = {name: value for name, value in outcome.metrics.items() if math.isfinite(value)}
    return Trial(design, finite, INVALID, "failed", {**meta, "reason": reason or "no reason given"}, number)


def guarded(evaluator: Evaluator, design: Design, seed: int) -> Outcome:
    """An evaluation whose exceptions are outcomes."""
    try:
        return evaluator.evaluate(design, seed)
    except Exception as error:  # a search of hours survives one design that its evaluator cannot cope with
        first = (str(error).splitlines() or [""])[0][:200]
        return Outcome(status="failed", reason=f"{type(error).__name__}: {first}")


class _Worker:
    """One process of the pool, with the evaluator it was started with."""

    evaluator: Evaluator | None = None

    @staticmethod
    def start(evaluator: Evaluator) -> None:
        torch.set_num_threads(1)
        end_with_parent()
        _Worker.evaluator = evaluator

    @staticmethod
    def evaluate(design: Design, seed: int) -> Outcome:
        assert _Worker.evaluator is not None
        return guarded(_Worker.evaluator, design, seed)


@contextmanager
def _pool(evaluator: Evaluator, workers: int) -> Iterator[Executor | None]:
    if workers == 1:
        yield None
        return
    context = multiprocessing.get_context("spawn")  # a forked process must not enter the parent's thread pool
    with ProcessPoolExecutor(workers, context, _Worker.start, (evaluator,)) as pool:
        yield pool
