"""Which values the runs of a sweep get: a function of the file, the seed, the index and what earlier runs reported."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from lightning_cim.sweep.parameters import Parameter
from lightning_cim.sweep.sweep_file import SweepFile

Values = dict[str, Any]


def suggest(sweep: SweepFile, index: int, seed: int, before: Sequence[tuple[Values, float | None]]) -> Values:
    """Values of one run.

    Args:
        sweep: The file.
        index: Of the run, from 0.
        seed: Of the sweep.
        before: Values and metric of runs with smaller indices, in order; None: the run failed. Only ``bayes`` looks.

    Raises:
        IndexError: A grid has no such run.
        ImportError: ``bayes`` without optuna.
    """
    if sweep.method == "grid":
        return _of_grid(sweep.parameters, index)
    if sweep.method == "random":
        generator = np.random.default_rng((seed, index))
        return {parameter.name: parameter.draw(generator) for parameter in sweep.parameters}
    return _of_optuna(sweep, index, seed, before)


def runs_in(sweep: SweepFile, count: int | None) -> int:
    """How many runs a sweep has.

    Args:
        sweep: The file.
        count: Wanted; None: all of a grid, or the file's ``run_cap``.

    Raises:
        ValueError: Random or bayes without a number of runs, or a number below 1.
    """
    if count is not None and count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    limits = [limit for limit in (count, sweep.run_cap) if limit is not None]
    if sweep.method == "grid":
        limits.append(math.prod(len(parameter.grid()) for parameter in sweep.parameters))
    if not limits:
        raise ValueError(f"{sweep.path}: method {sweep.method} never ends; give --count=N, or run_cap in the file")
    return min(limits)


def _of_grid(parameters: Sequence[Parameter], index: int) -> Values:
    points = itertools.product(*(parameter.grid() for parameter in parameters))
    for values in itertools.islice(points, index, index + 1):
        return dict(zip((parameter.name for parameter in parameters), values, strict=True))
    raise IndexError(f"a grid without a run {index}")


def _of_optuna(sweep: SweepFile, index: int, seed: int, before: Sequence[tuple[Values, float | None]]) -> Values:
    try:
        import optuna
    except ImportError as error:
        raise ImportError("method bayes needs optuna: pip install 'lightning-cim[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # A sampler of its own for each run, so that a killed sweep goes on as if nothing had happened.
    sampler = optuna.samplers.TPESampler(seed=int(np.random.default_rng((seed, index)).integers(2**31)))
    study = optuna.create_study(direction=sweep.goal, sampler=sampler)
    space = {parameter.name: _distribution(parameter, optuna.distributions) for parameter in sweep.parameters}
    for values, score in before:
        inner = {parameter.name: _inner(parameter, values[parameter.name]) for parameter in sweep.parameters}
        if score is not None:
            study.add_trial(optuna.trial.create_trial(params=inner, distributions=space, value=score))
    trial = study.ask(space)
    return {parameter.name: _outer(parameter, trial.params[parameter.name]) for parameter in sweep.parameters}


def _distribution(parameter: Parameter, kinds: Any) -> Any:
    if parameter.values:
        return kinds.CategoricalDistribution(range(len(parameter.values)))
    if parameter.distribution == "int_uniform":
        return kinds.IntDistribution(int(parameter.low), int(parameter.high))
    if parameter.distribution == "normal":
        raise ValueError(f"parameter {parameter.name}: bayes needs a range, not a normal distribution")
    return kinds.FloatDistribution(
        parameter.low,
        parameter.high,
        log=parameter.distribution == "log_uniform_values",
        step=parameter.step if parameter.distribution == "q_uniform" else None,
    )


def _inner(parameter: Parameter, value: Any) -> Any:
    """A categorical value as its position: optuna stores only plain ones."""
    return parameter.values.index(value) if parameter.values else value


def _outer(parameter: Parameter, value: Any) -> Any:
    return parameter.values[value] if parameter.values else value
