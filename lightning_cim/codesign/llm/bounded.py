"""HTTP replies of bounded size and duration, whatever the server sends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

LARGEST = 2**20
"""Bytes of a reply; a design takes a few hundred, a long chain of thought some ten thousand."""


class TooMuch(Exception):
    """A server sends more than a reply can be, or packs it, so that its size cannot be told."""


def bounded(client_class: type[Any], timeout: float) -> Callable[[Any], None]:
    """A hook for the responses of an HTTP client: reading the body raises if it is too large or takes too long.

    A client's own time-out counts from one piece to the next: a server that sends a byte a second never meets it.

    Args:
        client_class: A subclass of ``httpx.Client`` (or of ``httpx2.Client``), from which the library is told.
        timeout: Seconds for the body.
    """
    library = import_module(client_class.__mro__[1].__module__.partition(".")[0])

    class Stream(library.SyncByteStream):  # type: ignore[misc, name-defined]
        """Passes on what it is given until it is too much or too late."""

        def __init__(self, inner: Any) -> None:
            self._inner = inner

        def __iter__(self) -> Iterator[bytes]:
            deadline, size = time.monotonic() + timeout, 0
            for piece in self._inner:
                size += len(piece)
                if size > LARGEST:
                    raise TooMuch(f"its reply is larger than {LARGEST} bytes")
                if time.monotonic() > deadline:
                    raise library.ReadTimeout(f"the reply took longer than {timeout} s")
                yield piece

        def close(self) -> None:
            self._inner.close()

    def hook(response: Any) -> None:
        if response.headers.get("content-encoding", "identity").lower() != "identity":
            raise TooMuch("its reply is compressed, which was not asked for")
        response.stream = Stream(response.stream)

    return hook
