"""One search on several machines: optuna's storage hands out proposals and keeps what came of them."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from lightning_cim.codesign.evaluator import Evaluator, Outcome
from lightning_cim.codesign.objective import Objective
from lightning_cim.codesign.optimizers.optuna_search import SAMPLERS, STATES, quiet
from lightning_cim.codesign.result import SearchResult
from lightning_cim.codesign.search import PATIENCE, guarded, scored
from lightning_cim.codesign.space import Design, Space
from lightning_cim.codesign.trial import Trial

_TRIAL = "trial"
"""User attribute that holds a finished trial as JSON."""
_ABOUT = "search"
"""User attribute of the study that says what is searched."""


class SharedSearch:
    """A search that any number of processes, on one machine or many, work on at the same time.

    Each calls :meth:`run` with the same arguments; they may come and go. An episode that its process did not finish
    within ``lost_after`` seconds is given up and handed out again. Which designs are tried depends on who was faster,
    so that such a search cannot be repeated; for that see :class:`~lightning_cim.codesign.search.CoDesignSearch`.

    Args:
        space: What to search.
        evaluator: Scores designs; equal versions on all machines.
        objective: Reward and limits. ``"pareto"`` hands the sampler all goals instead of the reward.
        budget: Episodes of all processes together; at least 1. Processes that begin their last one at the same moment
            may exceed it by one each.
        storage: Of optuna: ``"sqlite:///search.db"`` for processes that share a disk which locks files;
            ``"postgresql://..."`` or ``"mysql://..."`` for several machines.
        name: Of the search in this storage.
        sampler: ``"tpe"``, ``"nsga2"`` or ``"gp"``.
        seed: Of the evaluations; the same on all machines.
        lost_after: Seconds; longer than any evaluation takes.
        progress: Whether to print a line an episode.

    Raises:
        ImportError: optuna, the extra ``lightning-cim[tune]``, is missing.
        ValueError: An option out of range, or the name belongs to another search.
    """

    def __init__(
        self,
        space: Space,
        evaluator: Evaluator,
        objective: Objective,
        budget: int,
        storage: str,
        name: str = "codesign",
        *,
        sampler: str = "tpe",
        seed: int = 0,
        lost_after: float = 3600.0,
        progress: bool = True,
    ) -> None:
        if budget < 1:
            raise ValueError(f"SharedSearch: budget must be at least 1, got {budget}")
        if sampler not in SAMPLERS:
            raise ValueError(f"SharedSearch: sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        if not lost_after > 0:
            raise ValueError(f"SharedSearch: lost_after must be more than 0 seconds, got {lost_after}")
        try:
            import optuna
        except ImportError as error:
            raise ImportError("a shared search needs optuna: pip install 'lightning-cim[tune]'") from error
        self._optuna: Any = optuna
        self.space, self.evaluator, self.objective = space, evaluator, objective
        self._budget, self._seed, self._lost_after, self._progress = budget, seed, lost_after, progress
        self._several = objective.reward_name == "pareto"
        self.about: dict[str, Any] = {
            "space": {slot.name: list(slot.values) for slot in space.slots},
            "name": space.name,
            "evaluator": evaluator.version,
            "optimizer": sampler,
            "objective": objective.to_dict(),
            "seed": seed,
        }
        directions: list[Any] = list(objective.directions.values()) if self._several else ["maximize"]
        # Processes that started from the same seed would propose the same designs.
        own = int(np.random.SeedSequence().generate_state(1)[0])
        with quiet(optuna):
            sampling = getattr(optuna.samplers, SAMPLERS[sampler])(seed=own, **_constraints(optuna))
            self._study = optuna.create_study(
                storage=_opened(optuna, storage),
                sampler=sampling,
                study_name=name,
                directions=directions,
                load_if_exists=True,
            )
        known = self._study.user_attrs.get(_ABOUT)
        if known is None:
            self._study.set_user_attr(_ABOUT, self.about)
        elif known != self.about:
            different = ", ".join(key for key in self.about if known.get(key) != self.about[key])
            raise ValueError(f"the storage holds another search named {name!r} (of another {different}): choose a name")
        self._distributions: dict[str, Any] = {
            slot.name: optuna.distributions.CategoricalDistribution(list(slot.values))
            if slot.is_text
            else optuna.distributions.IntDistribution(0, len(slot.values) - 1)
            for slot in space.slots
        }

    def run(self) -> SearchResult:
        """Work on the search until the budget is spent, and return what all processes found.

        Waits at the end for episodes that others have under way.

        Raises:
            RuntimeError: Several evaluations of this process in a row broke down.
        """
        failures = 0
        begun = time.perf_counter()
        while True:
            finished, running = self._counts()
            if finished >= self._budget:
                break
            if finished + running >= self._budget:
                time.sleep(0.2)  # others are at the last ones; one of them may be lost
                continue
            trial = self._episode()
            failures = failures + 1 if trial.status == "failed" else 0
            if self._progress:
                print(f"episode {trial.number}: {trial.status}, reward {trial.reward:.4f}", flush=True)
            if failures >= PATIENCE:
                raise RuntimeError(
                    f"{PATIENCE} evaluations in a row broke down, the last with: {trial.meta['reason']}. The search can"
                    " be continued when the cause is mended"
                )
        return SearchResult(self.space, self.objective, self.trials(), self.about, {"all": time.perf_counter() - begun})

    def trials(self) -> tuple[Trial, ...]:
        """All finished episodes so far, of all processes, renumbered in the order of their proposals."""
        found = [trial for trial in self._all() if _TRIAL in trial.user_attrs]
        trials = (Trial.from_json(trial.user_attrs[_TRIAL]) for trial in sorted(found, key=lambda t: t.number))
        return tuple(
            Trial(trial.design, trial.metrics, trial.reward, trial.status, trial.meta, number)
            for number, trial in enumerate(trials)
        )

    def _all(self) -> Sequence[Any]:
        trials: Sequence[Any] = self._study.get_trials(deepcopy=False)
        return trials

    def _counts(self) -> tuple[int, int]:
        """Episodes that are finished, and that are under way; those that are lost are given up."""
        finished = running = 0
        for trial in self._all():
            if trial.state.is_finished():
                finished += _TRIAL in trial.user_attrs
            elif datetime.now() - trial.datetime_start > timedelta(seconds=self._lost_after):
                self._give_up(trial.number)
            else:
                running += 1
        return finished, running

    def _give_up(self, number: int) -> None:
        with quiet(self._optuna):
            self._study.tell(number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)

    def _episode(self) -> Trial:
        with quiet(self._optuna):
            asked = self._study.ask(self._distributions)
        design = self._design(asked.params)
        try:
            trial = self._scored(design, asked.number)
        except BaseException:
            self._give_up(asked.number)  # handed out again at once
            raise
        worst = float(max(trial.meta.get("violations") or [0.0]))
        asked.set_user_attr("violation", worst)
        if hasattr(asked, "set_constraint"):
            asked.set_constraint("limits", worst)
        asked.set_user_attr(_TRIAL, trial.to_json())
        values = self._values(trial)
        state = self._optuna.trial.TrialState["FAIL" if values is None else STATES[trial.status]]
        with quiet(self._optuna):
            self._study.tell(asked.number, values, state=state, skip_if_finished=True)
        return trial

    def _scored(self, design: Design, number: int) -> Trial:
        cost = self.evaluator.cost(design)
        over = self.objective.violations(cost)
        meta: dict[str, Any] = {"source": self.about["optimizer"], "process": os.getpid()}
        outcome: Outcome | None = None
        if all(value <= 0 for value in over.values()):
            known = self._known(design)
            meta |= {"duplicate": True} if known is not None else {}
            outcome = known or guarded(self.evaluator, design, self._seed)
        return scored(self.objective, design, meta, cost, over, outcome, number)

    def _known(self, design: Design) -> Outcome | None:
        """What came of the same design before, whoever evaluated it."""
        for trial in self._all():
            if _TRIAL in trial.user_attrs:
                found = Trial.from_json(trial.user_attrs[_TRIAL])
                if found.status == "ok" and found.design == design:
                    return Outcome(dict(found.metrics))
        return None

    def _design(self, params: dict[str, Any]) -> Design:
        return {
            slot.name: params[slot.name] if slot.is_text else slot.values[params[slot.name]]
            for slot in self.space.slots
        }

    def _values(self, trial: Trial) -> list[float] | None:
        """What optuna is told; None for a trial that it should leave out."""
        if trial.status == "failed":
            return None
        if not self._several:
            return [trial.reward]
        values = [trial.metrics.get(name) for name in self.objective.directions]
        if values[0] is None:  # an invalid design has no accuracy: none is the worst there is
            values[0] = 0.0
        return [value for value in values if value is not None] if None not in values else None


def _constraints(optuna: Any) -> dict[str, Any]:
    """Optuna 4 is given a function; optuna 5 reads what each trial was given."""
    if hasattr(optuna.trial.Trial, "set_constraint"):
        return {}
    return {"constraints_func": lambda trial: (trial.user_attrs.get("violation", 0.0),)}


def _opened(optuna: Any, url: str) -> Any:
    """The storage, or one line about why not."""
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except Exception as error:  # drivers raise classes of their own
        first = (str(error).replace(url, _without_password(url)).splitlines() or [""])[0][:200]
        raise ValueError(f"cannot open the storage {_without_password(url)}: {first}") from error


def _without_password(url: str) -> str:
    """For messages.

    Example:
        >>> _without_password("mysql://anna:secret@host/search")
        'mysql://anna:***@host/search'
    """
    scheme, slashes, rest = url.partition("://")
    account, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{account.partition(':')[0]}:***@{host}" if at else url
