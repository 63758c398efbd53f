"""A language model as the optimizer of a design search."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lightning_cim.codesign.llm.backend import Backend, BackendError, Completion, Message, make_backend
from lightning_cim.codesign.llm.parse import ReplyError, parse_reply
from lightning_cim.codesign.llm.prompt import EXPERT_NOTES, Prompter, Task, prompt_hash
from lightning_cim.codesign.llm.statistics import ReplyStatistics
from lightning_cim.codesign.llm.transcript import Transcript
from lightning_cim.codesign.optimizers.base import Proposal
from lightning_cim.codesign.optimizers.state import (
    Codes,
    Tried,
    check_owner,
    generator,
    incumbent,
    mutated,
    sampled,
    untried,
)

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space
    from lightning_cim.codesign.trial import Trial

GIVE_UP = 3
"""Proposals in a row without a reply, after which the backend is not called again."""

QUOTED = 500
"""Characters of a refused reply that are sent back with what is wrong with it."""


class LLMOptimizer:
    """Asks a language model for each design, checks what it says, and falls back where it says nothing of use.

    A reply is parsed, validated, repaired (values moved to the nearest allowed ones) and compared with what was tried;
    if there is nothing to use, the model is told why and asked again. After the last retry, or where no reply comes,
    one slot of the best design so far is mutated, and the proposal is marked ``source="fallback"``. Replies are data:
    nothing in them is run, and nothing but a design of the space leaves the parser.

    Meta data of a proposal: ``source`` (``"llm"`` or ``"fallback"``), ``retries``, ``outcomes`` (one a call, see
    :data:`~lightning_cim.codesign.llm.statistics.OUTCOMES`), ``tokens`` (``prompt``, ``completion``), ``prompt_hash``
    (of the first prompt), ``backend``, ``mended``, and ``fallback_reason`` where there is one.

    Attributes:
        name: ``llm``, ``llm_naive`` without expert notes, ``llm_anonymous``.
        statistics: Counts so far.

    Args:
        space: What to search.
        seed: Of the fallback, and of the model's sampling where it can be seeded.
        backend: Where replies come from, or ``{"name": ..., options}`` for :func:`make_backend`.
        task: What is searched for, in words; also as a mapping.
        notes: Expert notes.
        anonymous: Ablation: hide from the model what it searches.
        best: How many of the best trials it is shown.
        last: How many of the latest.
        retries: Further calls where a reply is of no use; 0 or more.
        temperature: Of the model's sampling; 0 or more.
        on_error: Where no reply comes: go on with the ``fallback``, or ``stop`` with a :class:`BackendError`.
        transcript: File to which every prompt and reply is appended.

    Raises:
        ValueError: An option out of range.
    """

    def __init__(
        self,
        space: Space,
        seed: int = 0,
        *,
        backend: Backend | Mapping[str, Any],
        task: Task | Mapping[str, Any] | None = None,
        notes: Sequence[str] = EXPERT_NOTES,
        anonymous: bool = False,
        best: int = 10,
        last: int = 10,
        retries: int = 3,
        temperature: float = 0.7,
        on_error: Literal["fallback", "stop"] = "fallback",
        transcript: str | os.PathLike[str] | None = None,
    ) -> None:
        if retries < 0:
            raise ValueError(f"LLMOptimizer: retries must be 0 or more, got {retries}")
        if not temperature >= 0:
            raise ValueError(f"LLMOptimizer: temperature must be 0 or more, got {temperature}")
        if on_error not in ("fallback", "stop"):
            raise ValueError(f"LLMOptimizer: on_error is 'fallback' or 'stop', got {on_error!r}")
        self.name = "llm_anonymous" if anonymous else "llm" if notes else "llm_naive"
        self._space, self._shown = space, space.anonymised() if anonymous else space
        self._backend: Backend = make_backend(space=self._shown, **backend) if isinstance(backend, Mapping) else backend
        self._prompter = Prompter(
            self._shown,
            Task(**task) if isinstance(task, Mapping) else task or Task(),
            tuple(notes),
            best,
            last,
            self._backend.form,
            anonymous,
        )
        self._retries, self._temperature, self._on_error = retries, temperature, on_error
        self._transcript = Transcript(transcript) if transcript is not None else None
        self._seed, self._rng = seed, np.random.default_rng(seed)
        self._tried = Tried(space)
        self._calls = 0
        self._silent = 0
        self._gave_up = ""
        self._warned: set[str] = set()
        self.statistics = ReplyStatistics()

    def ask(self, history: Sequence[Trial], n: int = 1) -> list[Proposal]:
        """See :meth:`Optimizer.ask`; one conversation a proposal.

        Raises:
            BackendError: No reply came, and ``on_error`` is ``"stop"``. The search can be resumed.
        """
        self._tried.follow(history)
        return [self._propose(history) for _ in range(n)]

    def tell(self, trials: Sequence[Trial]) -> None:
        """Nothing to do: the history is in the prompt."""

    def state_dict(self) -> dict[str, Any]:
        """State of the generator, calls made, designs under way, statistics. Neither prompts nor keys."""
        return {
            "name": self.name,
            "seed": self._seed,
            "rng": self._rng.bit_generator.state,
            "calls": self._calls,
            "silent": self._silent,
            "pending": self._tried.pending,
            "statistics": self.statistics.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :meth:`Optimizer.load_state_dict`. A backend that had been given up is tried again."""
        check_owner(state, self.name)
        self._seed, self._rng = state["seed"], generator(state["rng"])
        self._calls, self._silent = state["calls"], min(state["silent"], GIVE_UP - 1)
        self._gave_up = ""
        self._tried = Tried(self._space, state["pending"])
        self.statistics = ReplyStatistics(**state["statistics"])
        self._backend.seek(self._calls)

    def _propose(self, history: Sequence[Trial]) -> Proposal:
        messages = self._prompter.messages(history, [self._to_shown(trial.design) for trial in history])
        meta: dict[str, Any] = {
            "source": "llm",
            "backend": self._backend.name,
            "prompt_hash": prompt_hash(messages),
            "outcomes": [],
            "tokens": {"prompt": 0, "completion": 0},
        }
        try:
            codes = self._converse(messages, meta)
        except BackendError as error:
            meta["outcomes"].append("error")
            meta["fallback_reason"] = str(error)
            codes = None
            self._handle(error)
        if codes is None:
            meta["source"] = "fallback"
            codes = self._fallback(history)
        meta["retries"] = max(len(meta["outcomes"]) - 1, 0)
        self._tried.start(codes)
        self.statistics.add(meta)
        return Proposal(self._space.decode(codes), meta)

    def _converse(self, messages: list[Message], meta: dict[str, Any]) -> Codes | None:
        """Codes of a design that was not tried, or None after the last retry."""
        for _ in range(1 + self._retries):
            begun = time.perf_counter()
            reply = self._call(messages)
            seconds = time.perf_counter() - begun
            outcome, problem, codes = self._read(reply.text, meta)
            meta["outcomes"].append(outcome)
            meta["tokens"]["prompt"] += reply.prompt_tokens
            meta["tokens"]["completion"] += reply.completion_tokens
            if self._transcript is not None:
                self._transcript.add(self._backend.name, messages, reply, outcome, seconds, prompt_hash(messages))
            if codes is not None:
                return codes
            meta["fallback_reason"] = problem
            messages = [
                *messages,
                {"role": "assistant", "content": _quoted(reply.text)},
                {"role": "user", "content": f"This cannot be used: {problem}. Answer with another design only."},
            ]
        return None

    def _call(self, messages: Sequence[Message]) -> Completion:
        if self._gave_up:
            raise BackendError(self._gave_up, permanent=True)
        self._calls += 1
        seed = (self._seed * 1_000_003 + self._calls) % 2**31
        reply = self._backend.complete(messages, self._shown.to_json_schema(), self._temperature, seed)
        self._silent = 0
        return reply

    def _read(self, text: str, meta: dict[str, Any]) -> tuple[str, str, Codes | None]:
        """Outcome, what is wrong, and the codes of a design that can be used."""
        try:
            parsed = parse_reply(text, self._shown)
        except ReplyError as error:
            return "malformed", str(error), None
        codes = self._shown.encode(parsed.design)
        if codes in self._tried:
            return "duplicate", "this design was tried before", None
        meta.pop("fallback_reason", None)
        meta["mended"] = list(parsed.mended)
        return ("repaired" if parsed.mended else "valid"), "", codes

    def _handle(self, error: BackendError) -> None:
        if self._on_error == "stop":
            raise error
        self._silent += 1
        if not self._gave_up and (error.permanent or self._silent >= GIVE_UP):
            self._gave_up = str(error)
        if str(error) not in self._warned:
            self._warned.add(str(error))
            then = "it is not asked again" if self._gave_up else "it is asked again for the next design"
            warnings.warn(
                f"{error}; a mutation of the best design stands in for the model, and {then}",
                RuntimeWarning,
                stacklevel=4,
            )

    def _fallback(self, history: Sequence[Trial]) -> Codes:
        best = incumbent(history)
        if best is None:
            return untried(self._tried, self._space, lambda: sampled(self._space, self._rng), self._rng)
        codes = self._space.encode(best)
        return untried(self._tried, self._space, lambda: mutated(self._space, codes, self._rng), self._rng)

    def _to_shown(self, design: Mapping[str, Any]) -> Mapping[str, Any]:
        return design if self._shown is self._space else self._shown.decode(self._space.encode(design))


def _quoted(text: str) -> str:
    """The beginning of a reply, fit to be sent: half a surrogate pair, which no encoding takes, becomes ``?``."""
    return text[:QUOTED].encode(errors="replace").decode() or "(no text)"


def llm(space: Space, seed: int = 0, **options: Any) -> LLMOptimizer:
    """A language model that is told all; options as of :class:`LLMOptimizer`."""
    return LLMOptimizer(space, seed, **options)


def llm_naive(space: Space, seed: int = 0, **options: Any) -> LLMOptimizer:
    """Ablation without expert notes; options as of :class:`LLMOptimizer`."""
    return LLMOptimizer(space, seed, notes=(), **options)


def llm_anonymous(space: Space, seed: int = 0, **options: Any) -> LLMOptimizer:
    """Ablation with meaningless names, no task, no notes; options as of :class:`LLMOptimizer`."""
    return LLMOptimizer(space, seed, anonymous=True, **options)
