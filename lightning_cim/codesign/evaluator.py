"""What a search asks of an evaluator."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design


@dataclass(frozen=True)
class Outcome:
    """What came of an evaluation.

    Attributes:
        metrics: By name with unit, hardware and accuracy: ``acc_mean``, ``acc_kpp``, ``energy_pj``, ...
        status: ``"failed"`` if it broke down.
        reason: Why, in one line.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    status: Literal["ok", "failed"] = "ok"
    reason: str = ""


class Evaluator(Protocol):
    """Scores designs. It is pickled for worker processes, so it should hold settings rather than data.

    Attributes:
        version: Changes whenever the same design and seed may give other metrics; part of the key of cached outcomes.
    """

    @property
    def version(self) -> str:
        """See above."""

    def cost(self, design: Design) -> dict[str, float]:
        """Hardware metrics, in milliseconds and without training; limits are checked on them."""

    def evaluate(self, design: Design, seed: int) -> Outcome:
        """Metrics for the search, those of :meth:`cost` among them; a function of design, seed and version.

        Only designs within the limits come here. Accuracies are those of validation data.
        """

    def final(self, design: Design, seed: int) -> dict[str, float]:
        """Metrics of a chosen design on held-out data, with chips that no search has seen.

        Args:
            design: One of the best of a search.
            seed: As given to :meth:`evaluate`, so that it is the same trained network.
        """
