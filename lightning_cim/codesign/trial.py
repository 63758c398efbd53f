"""What was proposed, what came of it, and how it is written down."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from lightning_cim._files import is_finite, json_in

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Design

Status = Literal["ok", "invalid", "failed"]
"""``ok``: evaluated. ``invalid``: outside a hard limit, never trained. ``failed``: the evaluation broke down."""

FIELDS = ("number", "design", "metrics", "reward", "status", "meta")


@dataclass(frozen=True)
class Trial:
    """One finished proposal of a search.

    Attributes:
        design: Slot name to value.
        metrics: What was measured, by name with its unit (``acc_mean``, ``energy_pj``, ``latency_ns``, ``area_mm2``).
            Finite. Metrics that were not measured are absent.
        reward: What scalar optimizers maximise; finite, -1 for an invalid design.
        status: See :data:`Status`.
        meta: Where it came from, JSON-able: ``source`` (``"llm"``, ``"fallback"``, ``"random"``, ...), ``retries``,
            ``tokens``, ``prompt_hash``; ``reason`` in one line if it is not ok; ``violations``, one number a limit,
            above 0 if the limit is exceeded.
        number: Position in the search, from 0.

    Raises:
        ValueError: A number is not finite, the status is unknown, or the position is negative.

    Example:
        >>> trial = Trial({"adc_bits": 5}, {"acc_mean": 0.9}, reward=0.7, status="ok", number=3)
        >>> Trial.from_json(trial.to_json()) == trial
        True
    """

    design: Design
    metrics: dict[str, float]
    reward: float
    status: Status
    meta: dict[str, Any] = field(default_factory=dict)
    number: int = 0

    def __post_init__(self) -> None:
        if self.status not in get_args(Status):
            raise ValueError(f"Trial: status must be one of {', '.join(get_args(Status))}, got {self.status!r}")
        if self.number < 0:
            raise ValueError(f"Trial: number must be 0 or more, got {self.number!r}")
        for name, value in {**self.metrics, "reward": self.reward}.items():
            if not is_finite(value):
                raise ValueError(f"Trial {self.number}: {name} must be finite, got {value!r}; leave it out, or fail it")

    def to_json(self) -> str:
        """One line; floats read back equal.

        Raises:
            ValueError: ``meta`` holds something that JSON has no word for.
        """
        try:
            return json.dumps({name: getattr(self, name) for name in FIELDS}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Trial {self.number} cannot be written as JSON: {error}") from error

    @classmethod
    def from_json(cls, line: str) -> Trial:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: The line is torn, or is no trial; the message says which field is at fault.
        """
        try:
            found = json_in(line)
        except ValueError as error:
            raise ValueError(f"not a line of JSON: {error}") from error
        if not isinstance(found, dict) or set(found) != set(FIELDS):
            raise ValueError(f"a trial has the fields {', '.join(FIELDS)}")
        for name in ("design", "metrics", "meta"):
            if not isinstance(found[name], dict):
                raise ValueError(f"{name} of a trial must be an object, got {_short(found[name])}")
        for name, value in {**found["metrics"], "reward": found["reward"]}.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise ValueError(f"{name} of a trial must be a number, got {_short(value)}")
        if isinstance(found["number"], bool) or not isinstance(found["number"], int):
            raise ValueError(f"number of a trial must be an integer, got {_short(found['number'])}")
        return cls(**found)


def _short(value: object) -> str:
    return repr(value)[:60]
