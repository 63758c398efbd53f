"""Any OpenAI-compatible endpoint: OpenAI, vLLM, llama-server, LM Studio, Ollama, gateways."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Literal, NoReturn
from urllib.parse import urlsplit

from lightning_cim.codesign.llm.backend import BackendError, Completion, Message
from lightning_cim.codesign.llm.bounded import TooMuch, bounded
from lightning_cim.codesign.llm.prompt import one_line

FORMATS = ("json_schema", "json_object", "text")
"""How replies are held to a design, the strictest first; an endpoint that refuses one is asked for the next."""

SPARABLE = ("temperature", "seed", "max_tokens")
"""Parameters that some models refuse, and that are left out then."""

REFUSED = (400, 422, 501)
"""Statuses of a request that this endpoint will not serve in this form."""


class OpenAIBackend:
    """Asks an endpoint through the ``openai`` SDK, with structured output where the endpoint knows it.

    Redirects are not followed, replies are bounded in size and time, and the key is kept out of names, messages,
    prompts and transcripts, also where a server echoes it.

    Args:
        model: As the endpoint calls it.
        base_url: Of the endpoint, usually ending in ``/v1``. Default: ``$OPENAI_BASE_URL``, else OpenAI itself.
        key_env: Name of the environment variable with the key. The key itself is no option, so that it stands in no
            configuration file. Endpoints with a ``base_url`` may need none.
        timeout: Seconds for a reply; greater than 0.
        max_retries: Further attempts after 408, 409, 429, 5xx or a lost connection; waits as ``Retry-After`` says.
        max_tokens: Of a reply; at least 1.

    Raises:
        ImportError: openai, the extra ``lightning-cim[llm]``, is missing.
        ValueError: No key, a URL that is none, or an option out of range.
    """

    form: Literal["json", "line"] = "json"

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        key_env: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        max_retries: int = 3,
        max_tokens: int = 2048,
    ) -> None:
        try:
            openai: Any = import_module("openai")
        except ImportError as error:
            raise ImportError("the backend 'openai' needs openai: pip install 'lightning-cim[llm]'") from error
        if not timeout > 0 or max_retries < 0 or max_tokens < 1:
            raise ValueError(
                "OpenAIBackend: timeout must be greater than 0, max_retries 0 or more, max_tokens 1 or more, got"
                f" {timeout}, {max_retries}, {max_tokens}"
            )
        base_url = base_url or os.environ.get("OPENAI_BASE_URL") or None
        self._key = os.environ.get(key_env, "").strip()
        if not self._key and base_url is None:
            raise ValueError(f"OpenAIBackend: no key: set the environment variable {key_env}, or give a base_url")
        if not (self._key.isascii() and self._key.isprintable()):
            raise ValueError(f"OpenAIBackend: the environment variable {key_env} holds letters that no key has")
        host = _host(base_url)
        self.name = f"{model} at {host}"
        self._model, self._host, self._key_env, self._timeout = model, host, key_env, timeout
        self._openai = openai
        self._client = openai.OpenAI(
            api_key=self._key or "none",
            base_url=base_url,
            timeout=timeout,
            max_retries=max_retries,
            default_headers={"Accept-Encoding": "identity"},
            http_client=openai.DefaultHttpxClient(
                follow_redirects=False, event_hooks={"response": [bounded(openai.DefaultHttpxClient, timeout)]}
            ),
        )
        self._format = 0
        self._limits: dict[str, Any] = {"max_tokens": max_tokens}
        self._left_out: set[str] = set()

    def complete(
        self, messages: Sequence[Message], json_schema: Mapping[str, Any], temperature: float, seed: int
    ) -> Completion:
        """See :meth:`Backend.complete`."""
        while True:
            wanted = {"temperature": temperature, "seed": seed, **self._limits}
            options = {key: value for key, value in wanted.items() if key not in self._left_out}
            if (held := self._held(json_schema)) is not None:
                options["response_format"] = held
            try:
                raw = self._client.chat.completions.with_raw_response.create(
                    model=self._model, messages=list(messages), **options
                )
                return self._completion(raw.http_response.content)
            except self._openai.APIStatusError as error:
                if error.status_code not in REFUSED or not self._ask_for_less(str(error)):
                    self._fail_by_status(error)
            except self._openai.APITimeoutError as error:
                raise BackendError(f"{self.name} did not answer within {self._timeout:g} s") from error
            except (TooMuch, self._openai.APIConnectionError) as error:
                cause = error.__cause__ or error  # some versions of the SDK wrap what a hook raises, some do not
                if isinstance(cause, TooMuch):
                    raise BackendError(f"{self.name} is not to be trusted: {cause}") from error
                raise BackendError(
                    f"{self.name} cannot be reached ({self._clean(cause)}): is it running, and base_url right?"
                ) from error

    def seek(self, calls: int) -> None:
        """An endpoint has no position."""

    def _held(self, json_schema: Mapping[str, Any]) -> dict[str, Any] | None:
        kind = FORMATS[self._format]
        if kind == "json_schema":
            schema = {"name": "design", "strict": True, "schema": dict(json_schema)}
            return {"type": kind, "json_schema": schema}
        return {"type": kind} if kind == "json_object" else None

    def _ask_for_less(self, message: str) -> bool:
        """Leave out what the endpoint names, else hold it to less; False where there is nothing left to leave out."""
        if "max_completion_tokens" in message and "max_tokens" in self._limits:
            self._limits = {"max_completion_tokens": self._limits["max_tokens"]}
            return True
        for name in SPARABLE:
            if name in message and name not in self._left_out:
                self._left_out.add(name)
                return True
        if self._format + 1 < len(FORMATS):
            self._format += 1
            return True
        return False

    def _completion(self, body: bytes) -> Completion:
        try:
            found = json.loads(body)
            message = found["choices"][0]["message"]
            text = _text(message.get("content")) or _text(message.get("refusal"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise BackendError(
                f"{self.name} did not answer as a chat endpoint does: does base_url end as it should (often /v1)?"
            ) from error
        usage = found.get("usage")
        counts = usage if isinstance(usage, dict) else {}
        return Completion(
            self._without_key(text), _count(counts.get("prompt_tokens")), _count(counts.get("completion_tokens"))
        )

    def _fail_by_status(self, error: Any) -> NoReturn:
        status, said = error.status_code, self._clean(error)
        if status in (401, 403):
            problem = f"{self.name} refused the key in the environment variable {self._key_env} ({status}): {said}"
        elif status == 404:
            problem = f"{self.name} has no such model, or base_url is wrong (404): {said}"
        elif status == 429:
            problem = f"{self.name} is still over its rate limit or quota after all retries (429): {said}"
        elif status >= 500:
            problem = f"{self.name} broke down ({status}): {said}"
        else:
            problem = f"{self.name} refused the request ({status}): {said}"
        raise BackendError(problem, permanent=status < 500 and status not in (408, 409, 429)) from error

    def _clean(self, error: object) -> str:
        return one_line(self._without_key(str(error)))

    def _without_key(self, text: str) -> str:
        return text.replace(self._key, "[key]") if self._key else text


def _host(base_url: str | None) -> str:
    """Host and port, without what a URL may hold of secrets."""
    if base_url is None:
        return "api.openai.com"
    try:
        parts = urlsplit(base_url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
        host.encode("idna")  # as the HTTP library will
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not host or not base_url.isprintable():
        raise ValueError("OpenAIBackend: base_url must look like http://localhost:8080/v1")
    return f"{host}:{port}" if port else host


def _text(content: Any) -> str:
    """Text of a message: as it is, or in parts as some gateways send it."""
    if isinstance(content, list):
        return "".join(_text(part.get("text")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _count(value: Any) -> int:
    """What a server says of tokens; 0 where it cannot be true."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0
