"""How many of a model's replies were of use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lightning_cim._tables import aligned

if TYPE_CHECKING:
    from lightning_cim.codesign.trial import Trial

OUTCOMES = ("valid", "repaired", "duplicate", "malformed", "error")
"""What becomes of a call: exactly one of these."""

TOLERATED = 0.2
"""Share of fallback proposals above which a result is hardly the model's."""


@dataclass
class ReplyStatistics:
    """Counts over the proposals of one search.

    Attributes:
        proposals: Asked for.
        fallback: Of them made without the model, after its last retry failed.
        valid: Replies that were used as they were.
        repaired: Replies that were used after values had been moved to allowed ones.
        duplicate: Replies with a design that was tried before.
        malformed: Replies with no design.
        error: Calls without a reply.
        prompt_tokens: Sum over all replies.
        completion_tokens: Sum over all replies.

    Example:
        >>> counts = ReplyStatistics()
        >>> counts.add({"source": "llm", "outcomes": ["duplicate", "valid"], "tokens": {"prompt": 9, "completion": 4}})
        >>> counts.replies, counts.rate("duplicate"), counts.fallback_rate
        (2, 0.5, 0.0)
    """

    proposals: int = 0
    fallback: int = 0
    valid: int = 0
    repaired: int = 0
    duplicate: int = 0
    malformed: int = 0
    error: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, trials: Iterable[Trial]) -> ReplyStatistics:
        """From the trials of a search; those that no model was asked for do not count."""
        found = cls()
        for trial in trials:
            if "outcomes" in trial.meta:
                found.add(trial.meta)
        return found

    def add(self, meta: Mapping[str, Any]) -> None:
        """Count one proposal by its meta data."""
        self.proposals += 1
        self.fallback += meta["source"] == "fallback"
        for outcome in meta["outcomes"]:
            setattr(self, outcome, getattr(self, outcome) + 1)
        self.prompt_tokens += meta["tokens"]["prompt"]
        self.completion_tokens += meta["tokens"]["completion"]

    @property
    def replies(self) -> int:
        """Calls that gave a reply."""
        return self.valid + self.repaired + self.duplicate + self.malformed

    def rate(self, outcome: str) -> float:
        """Share of an outcome among all calls, 0 if there were none."""
        calls = self.replies + self.error
        return int(getattr(self, outcome)) / calls if calls else 0.0

    @property
    def fallback_rate(self) -> float:
        """Share of proposals without the model, 0 if there were none."""
        return self.fallback / self.proposals if self.proposals else 0.0

    @property
    def warning(self) -> str:
        """One line for the report where the result is hardly the model's; else empty."""
        if self.fallback_rate <= TOLERATED:
            return ""
        return (
            f"{self.fallback_rate:.0%} of the proposals are mutations that stood in for the language model: this is not"
            " a result about the model"
        )

    def to_dict(self) -> dict[str, int]:
        """All counts, JSON-able; the inverse of ``ReplyStatistics(**counts)``."""
        return asdict(self)

    def table(self) -> str:
        """Counts and rates as text, with the warning below."""
        rows = [[name, str(getattr(self, name)), f"{self.rate(name):.1%} of calls"] for name in OUTCOMES]
        rows.append(["fallback", str(self.fallback), f"{self.fallback_rate:.1%} of {self.proposals} proposals"])
        rows.append(
            ["tokens", str(self.prompt_tokens + self.completion_tokens), f"{self.completion_tokens} of them generated"]
        )
        lines = aligned([["replies", "count", "share"], *rows])
        return "\n".join([*lines, *([f"Warning: {self.warning}."] if self.warning else [])])
