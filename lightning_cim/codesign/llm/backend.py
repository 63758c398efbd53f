"""Where replies come from: the protocol that every source follows, and sources by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from lightning_cim.codesign.space import Space

Message = dict[str, str]
"""``role`` (``system``, ``user`` or ``assistant``) and ``content``."""

BACKENDS = ("openai", "llamacpp", "replay")


@dataclass(frozen=True)
class Completion:
    """A reply.

    Attributes:
        text: As it came; may be anything.
        prompt_tokens: As the source counted, 0 if it does not.
        completion_tokens: As the source counted, 0 if it does not.
    """

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class BackendError(Exception):
    """No reply came. The message is one line: what failed, where, and what to do.

    Attributes:
        permanent: Whether a further call is pointless (wrong key, no such model, recording at its end).
    """

    def __init__(self, message: str, permanent: bool = False) -> None:
        super().__init__(" ".join(message.split()))
        self.permanent = permanent


class Backend(Protocol):
    """A source of replies.

    Attributes:
        name: For reports; holds no secret.
        form: How a design is to be written: as a JSON object, or as a ``line`` of ``slot=value``.
    """

    name: str
    form: Literal["json", "line"]

    def complete(
        self, messages: Sequence[Message], json_schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Completion:
        """One reply.

        Args:
            messages: The conversation so far.
            json_schema: Of a design, for sources that can hold a model to it.
            temperature: Of sampling, 0 or more.
            seed: Of sampling, for sources that can be seeded.

        Raises:
            BackendError: None came.
        """

    def seek(self, calls: int) -> None:
        """A search is continued in which so many calls were made before; only recordings have to know."""


def make_backend(name: str, space: Space, **options: Any) -> Backend:
    """A backend by name.

    Args:
        name: ``openai`` (any OpenAI-compatible endpoint), ``llamacpp`` (a model file on this machine) or ``replay``
            (recorded replies). A function of your own: :class:`CallableBackend`.
        space: Gives ``llamacpp`` its grammar.
        options: As of the backend's class.

    Raises:
        ValueError: An unknown name or option.
        ImportError: A package is missing; the message names the extra.
    """
    from lightning_cim.codesign.llm.llamacpp_backend import LlamaCppBackend
    from lightning_cim.codesign.llm.openai_backend import OpenAIBackend
    from lightning_cim.codesign.llm.replay import ReplayBackend

    try:
        if name == "openai":
            return OpenAIBackend(**options)
        if name == "llamacpp":
            return LlamaCppBackend(space.to_gbnf(), **options)
        if name == "replay":
            return ReplayBackend(**options)
    except TypeError as error:
        raise ValueError(f"make_backend({name!r}): {error}") from error
    raise ValueError(f"make_backend: there is no backend {name!r}: choose one of {', '.join(BACKENDS)}")
