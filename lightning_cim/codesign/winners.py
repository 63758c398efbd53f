"""The best designs once more: fresh chips, held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightning_cim._tables import aligned
from lightning_cim.codesign.evaluator import Evaluator
from lightning_cim.codesign.result import SearchResult
from lightning_cim.codesign.trial import Trial


@dataclass(frozen=True)
class Winner:
    """One of the best designs of a search.

    Attributes:
        trial: As the search saw it; too good on average, as the best is the best of many chances.
        metrics: On held-out data with fresh chips.
        reward: Of these: what to report.
    """

    trial: Trial
    metrics: dict[str, float]
    reward: float


def rescore(result: SearchResult, evaluator: Evaluator, top: int = 3, seed: int = 0) -> list[Winner]:
    """Score the best designs of a search anew.

    They keep the order of the search: the first is its choice, and choosing again by the new scores would make these
    too good in turn.

    Args:
        result: Of the search.
        evaluator: That scored it.
        top: How many designs, at least 1.
        seed: That the search was evaluated with.

    Raises:
        ValueError: ``top`` is less than 1, or nothing could be evaluated.
    """
    if top < 1:
        raise ValueError(f"rescore: top must be at least 1, got {top}")
    winners = []
    for trial in result.top(top):
        metrics = evaluator.final(trial.design, seed)
        winners.append(Winner(trial, metrics, result.objective.reward(metrics)))
    return winners


def winners_table(winners: Sequence[Winner]) -> list[str]:
    """Lines of a table: scores of the search beside the final ones."""
    names = [name for name in winners[0].metrics if name.startswith("acc")]
    head = ["design", "reward, search", "reward, final"]
    head += [f"{name}, {when}" for name in names for when in ("search", "final")]
    rows = [
        [
            f"trial {winner.trial.number}",
            f"{winner.trial.reward:.4f}",
            f"{winner.reward:.4f}",
            *(f"{found[name]:.4f}" for name in names for found in (winner.trial.metrics, winner.metrics)),
        ]
        for winner in winners
    ]
    return aligned([head, *rows])
