"""Every prompt and reply of a search in a file, which can be replayed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from lightning_cim.codesign.llm.backend import Completion, Message


class Transcript:
    """Appends one line of JSON a call: backend, seconds, outcome, tokens, reply and messages.

    What is written is what was sent and received. A backend's key is in neither: it travels in a header.

    Args:
        path: Of the file; created with its folder, or continued.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._path.is_file() and (found := self._path.read_bytes()) and not found.endswith(b"\n"):
            with self._path.open("ab") as file:  # a run was killed while it wrote
                file.write(b"\n")

    def add(
        self,
        backend: str,
        messages: Sequence[Message],
        reply: Completion,
        outcome: str,
        seconds: float,
        prompt_hash: str,
    ) -> None:
        """Write one call down, in one go."""
        entry = {
            "backend": backend,
            "prompt_hash": prompt_hash,
            "outcome": outcome,
            "seconds": round(seconds, 3),
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
            "reply": reply.text,
            "messages": list(messages),
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
