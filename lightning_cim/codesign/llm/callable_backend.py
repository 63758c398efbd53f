"""A Python function as the source of replies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from lightning_cim.codesign.llm.backend import Completion, Message


class CallableBackend:
    """Asks a function: a client of your own, or a rule-based stand-in for a language model.

    Args:
        function: Gets the messages and the schema of a design, returns the reply. What it raises, stops the search;
            let it raise :class:`BackendError` where the search shall go on without a reply.
        name: For reports.
        form: How a design is to be written.

    Example:
        >>> backend = CallableBackend(lambda messages, schema: '{"kernel": 3}')
        >>> backend.complete([{"role": "user", "content": "?"}], {}, temperature=0.0, seed=0).text
        '{"kernel": 3}'
    """

    def __init__(
        self,
        function: Callable[[Sequence[Message], Mapping[str, Any]], str],
        name: str = "callable",
        form: Literal["json", "line"] = "json",
    ) -> None:
        self._function = function
        self.name, self.form = name, form

    def complete(
        self, messages: Sequence[Message], json_schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Completion:
        """See :meth:`Backend.complete`.

        Raises:
            TypeError: The function returned no text.
        """
        text = self._function(messages, json_schema)
        if not isinstance(text, str):
            raise TypeError(f"the backend {self.name!r} must return text, got {type(text).__name__}")
        return Completion(text)

    def seek(self, calls: int) -> None:
        """A function has no position."""
