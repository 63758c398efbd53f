"""Optuna's samplers behind ask and tell: TPE, NSGA-II and Gaussian processes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import check_owner

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial

SAMPLERS = {"tpe": "TPESampler", "nsga2": "NSGAIISampler", "gp": "GPSampler"}
STATES = {"ok": "COMPLETE", "invalid": "COMPLETE", "failed": "FAIL"}


class OptunaSearch:
    """One of optuna's samplers, with hard limits as its constraint.

    Slots of numbers are passed as integers (their order means something), slots of words as categories. Each proposal
    is drawn by a sampler of its own, seeded by the seed and the count of proposals, so that a search that is continued
    elsewhere equals an uninterrupted one. Trials of others are taken in as if they had been asked for.

    Args:
        space: What to search.
        seed: Of all draws.
        sampler: ``tpe``, ``nsga2`` or ``gp``. GP needs scipy, and takes about a second a proposal.
        objectives: Metric name to ``"maximize"`` or ``"minimize"``: several goals for ``nsga2`` (and ``tpe``, ``gp``).
            Default: the reward. Where an invalid design lacks a metric, the worst value so far stands in.
        sampler_options: Of optuna's class, such as ``population_size``.

    Raises:
        ImportError: optuna, the extra ``lightning-cim[tune]``, is missing.
        ValueError: Unknown sampler or direction.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        sampler: str = "tpe",
        objectives: Mapping[str, Literal["maximize", "minimize"]] | None = None,
        **sampler_options: Any,
    ) -> None:
        if sampler not in SAMPLERS:
            raise ValueError(f"OptunaSearch: sampler must be one of {', '.join(SAMPLERS)}, got {sampler!r}")
        try:
            import optuna
        except ImportError as error:
            raise ImportError(f"the optimizer {sampler!r} needs optuna: pip install 'lightning-cim[tune]'") from error
        for metric, direction in (objectives or {}).items():
            if direction not in ("maximize", "minimize"):
                raise ValueError(f"OptunaSearch: {metric} is to 'maximize' or to 'minimize', got {direction!r}")
        self.name = sampler
        self._optuna, self._space, self._seed = optuna, space, seed
        self._objectives, self._options = dict(objectives or {}), sampler_options
        self._distributions: dict[str, Any] = {
            slot.name: optuna.distributions.CategoricalDistribution(tuple(range(len(slot.values))))
            if isinstance(slot.values[0], str)
            else optuna.distributions.IntDistribution(0, len(slot.values) - 1)
            for slot in space.slots
        }
        self._begin()
        self._sampler()  # a wrong option is reported here, not at the first proposal

    def _begin(self) -> None:
        with quiet(self._optuna):
            self._storage = self._optuna.storages.InMemoryStorage()
            directions = list(self._objectives.values()) or ["maximize"]
            self._study = self._optuna.create_study(storage=self._storage, study_name="codesign", directions=directions)
        self._study_id = self._storage.get_study_id_from_name("codesign")
        self._running: dict[tuple[int, ...], list[int]] = {}
        self._worst: dict[str, float] = {}
        self._asked = 0

    def _sampler(self) -> Any:
        seed = int(np.random.SeedSequence((self._seed, self._asked)).generate_state(1)[0])
        with quiet(self._optuna):
            sampler = getattr(self._optuna.samplers, SAMPLERS[self.name])
            if not hasattr(self._optuna.trial.Trial, "set_constraint"):  # optuna 4
                return sampler(seed=seed, constraints_func=_violation_of, **self._options)
            return sampler(seed=seed, **self._options)

    def _draw(self) -> tuple[int, tuple[int, ...]]:
        self._study.sampler = self._sampler()
        self._asked += 1
        with quiet(self._optuna):
            trial = self._study.ask(self._distributions)
        return trial.number, tuple(int(trial.params[name]) for name in self._space.names)

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`; looks at what was told, not at the history."""
        proposals = []
        for _ in range(n):
            number, codes = self._draw()
            self._running.setdefault(codes, []).append(number)
            proposals.append(Proposal(self._space.decode(codes), {"source": self.name}))
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        """Hand trials over to optuna."""
        for trial in trials:
            codes = self._space.encode(trial.design)
            if not self._running.get(codes):
                with quiet(self._optuna):
                    self._study.enqueue_trial(dict(zip(self._space.names, codes, strict=True)))
                self._running[codes] = [self._draw()[0]]
            number = self._running[codes].pop(0)
            if not self._running[codes]:
                del self._running[codes]
            identity = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
            self._storage.set_trial_user_attr(identity, "violation", _violation(trial))
            self._storage.set_trial_system_attr(identity, "constraints", [_violation(trial)])
            state = self._optuna.trial.TrialState[STATES[trial.status]]
            with quiet(self._optuna):
                self._study.tell(number, self._values(trial) if trial.status != "failed" else None, state=state)

    def _values(self, trial: Trial) -> list[float]:
        if not self._objectives:
            return [trial.reward]
        for name, direction in self._objectives.items():
            if name in trial.metrics:
                worse = max if direction == "minimize" else min
                self._worst[name] = worse(self._worst.get(name, trial.metrics[name]), trial.metrics[name])
            elif trial.status == "ok":
                raise ValueError(f"trial {trial.number} has no metric {name!r}, which is an objective of {self.name}")
        return [trial.metrics.get(name, self._worst.get(name, 0.0)) for name in self._objectives]

    def state_dict(self) -> dict[str, Any]:
        """All trials as optuna knows them."""
        trials = [
            {
                "state": trial.state.name,
                "values": trial.values,
                "params": trial.params,
                "user_attrs": trial.user_attrs,
                "system_attrs": {key: _plain(value) for key, value in trial.system_attrs.items()},
            }
            for trial in self._study.get_trials(deepcopy=False)
        ]
        study = {key: _plain(value) for key, value in self._storage.get_study_system_attrs(self._study_id).items()}
        return {
            "name": self.name,
            "seed": self._seed,
            "asked": self._asked,
            "worst": dict(self._worst),
            "trials": trials,
            "study": study,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`."""
        check_owner(state, self.name)
        self._begin()
        states = self._optuna.trial.TrialState
        with quiet(self._optuna):
            for number, found in enumerate(state["trials"]):
                kept = {**found, "state": states[found["state"]], "distributions": self._distributions}
                self._study.add_trial(self._optuna.trial.create_trial(**kept))
                if kept["state"] == states.RUNNING:
                    codes = tuple(found["params"][name] for name in self._space.names)
                    self._running.setdefault(codes, []).append(number)
        for key, value in state["study"].items():
            self._storage.set_study_system_attr(self._study_id, key, value)
        self._seed, self._asked, self._worst = state["seed"], state["asked"], dict(state["worst"])


def _violation(trial: Trial) -> float:
    """One number, so that it never changes its length: above 0 outside the limits."""
    default = 1.0 if trial.status == "invalid" else 0.0
    return float(max(trial.meta.get("violations") or [default]))


def _violation_of(trial: Any) -> tuple[float]:
    return (trial.user_attrs.get("violation", 0.0),)


def _plain(value: Any) -> Any:
    """As JSON would give it back."""
    return list(value) if isinstance(value, tuple) else value


@contextmanager
def quiet(optuna: Any) -> Iterator[None]:
    """Without the log line of every study, and without a warning for every use of a stable experiment."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def tpe(space: Space, seed: int = 0, **options: Any) -> OptunaSearch:
    """Tree-structured Parzen estimator; options as of :class:`OptunaSearch`."""
    return OptunaSearch(space, seed, "tpe", **options)


def nsga2(space: Space, seed: int = 0, population_size: int = 20, **options: Any) -> OptunaSearch:
    """NSGA-II with a population of 20 unless said otherwise; options as of :class:`OptunaSearch`."""
    return OptunaSearch(space, seed, "nsga2", population_size=population_size, **options)


def gp(space: Space, seed: int = 0, **options: Any) -> OptunaSearch:
    """Gaussian process; options as of :class:`OptunaSearch`."""
    return OptunaSearch(space, seed, "gp", **options)
