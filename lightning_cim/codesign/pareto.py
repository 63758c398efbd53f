"""Designs that no other design beats in everything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lightning_cim.codesign.objective import Direction
    from lightning_cim.codesign.trial import Trial


def pareto_front(trials: Sequence[Trial], directions: Mapping[str, Direction]) -> list[Trial]:
    """Trials that are ok and not dominated: none is as good in all goals and better in one.

    Of equal ones the first is kept.

    Args:
        trials: Of a search, or of several.
        directions: Metric to ``"maximize"`` or ``"minimize"``, as of :attr:`Objective.directions`.

    Returns:
        In the order of the first goal, best first.

    Raises:
        ValueError: No goals, or a trial that is ok lacks one of them.

    Example:
        >>> from lightning_cim.codesign.trial import Trial
        >>> points = [(0.9, 5.0), (0.8, 2.0), (0.7, 3.0)]
        >>> trials = [Trial({}, {"acc": a, "energy": e}, a, "ok", number=n) for n, (a, e) in enumerate(points)]
        >>> [trial.number for trial in pareto_front(trials, {"acc": "maximize", "energy": "minimize"})]
        [0, 1]
    """
    if not directions:
        raise ValueError("a Pareto front needs at least one goal")
    candidates = [trial for trial in trials if trial.status == "ok"]
    for trial in candidates:
        if missing := [name for name in directions if name not in trial.metrics]:
            raise ValueError(f"trial {trial.number} has no metric {', '.join(missing)}")
    if not candidates:
        return []
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions.values()])
    goals = signs * np.array([[trial.metrics[name] for name in directions] for trial in candidates])
    order = np.lexsort((np.arange(len(goals)), *goals.T[::-1]))  # whoever dominates a point comes before it
    kept: list[int] = []
    for place in order:
        if not any(np.all(goals[other] <= goals[place]) for other in kept):
            kept.append(int(place))
    return [candidates[place] for place in kept]
