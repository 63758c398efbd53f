"""Recorded replies instead of a model: what tests and demonstrations use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from lightning_cim._files import json_in, text_of
from lightning_cim.codesign.llm.backend import BackendError, Completion, Message


class ReplayBackend:
    """Gives the replies of a file in their order, whatever is asked.

    A replay shows the machinery at work. It is no evidence about a model: the recorded one saw other histories.

    Args:
        path: Lines of JSON with ``reply`` (text), and ``prompt_tokens`` and ``completion_tokens`` if known, such as a
            :class:`Transcript` holds. A last line that is torn is left out.
        form: How a design is to be written.

    Raises:
        ValueError: A line has no reply; with file and line.
        FileNotFoundError: There is no such file.
    """

    def __init__(self, path: str | os.PathLike[str], form: Literal["json", "line"] = "json") -> None:
        self.name, self.form = f"replay of {Path(path).name}", form
        self._replies = _read(Path(path))
        self._next = 0

    def complete(
        self, messages: Sequence[Message], json_schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Completion:
        """See :meth:`Backend.complete`."""
        if self._next >= len(self._replies):
            raise BackendError(f"{self.name}: all {len(self._replies)} recorded replies are used up", permanent=True)
        self._next += 1
        return self._replies[self._next - 1]

    def seek(self, calls: int) -> None:
        """Go on behind so many replies."""
        self._next = calls


def _read(path: Path) -> list[Completion]:
    lines = text_of(path).split("\n")
    replies = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            entry = json_in(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not a line of JSON: {error}") from error
        if not isinstance(entry, dict) or not isinstance(entry.get("reply"), str):
            raise ValueError(f'{path}, line {number}: expected an object with a text "reply"')
        replies.append(Completion(entry["reply"], *(_count(entry, key) for key in TOKENS)))
    return replies


TOKENS = ("prompt_tokens", "completion_tokens")


def _count(entry: Mapping[str, Any], key: str) -> int:
    found = entry.get(key)
    return found if isinstance(found, int) else 0
