"""Keep freed memory in the process while chips are evaluated on a CPU."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt(3)
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc takes no more
_EVERYTHING = 2**31 - 1


@contextmanager
def kept_memory() -> Iterator[None]:
    """Let glibc keep freed blocks for the next allocation instead of returning them to the system.

    Every layer of every batch allocates its activations. By default large blocks go back to the system as soon as they
    are free, which hands them out again page by page, zeroed: on small convolutional nets that can cost as much CPU
    time as the arithmetic. Afterwards kept memory is returned, and the thresholds are those that glibc's own
    adjustment ends at once a program has freed a large block. Other C libraries are left alone.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    libc.mallopt(_TRIM_THRESHOLD, _EVERYTHING)
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)
        libc.malloc_trim(0)
