"""Fingerprints of what was simulated, by which files of two runs are told apart. Any room may use them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import torch


def digest(head: str, leaves: Iterable[Any]) -> str:
    """16 hexadecimal digits that depend on every bit.

    Args:
        head: Any text.
        leaves: Tensors, or anything with a faithful ``repr``.

    Example:
        >>> digest("", [torch.zeros(1)]) == digest("", [torch.zeros(2)])
        False
    """
    found = hashlib.sha256(head.encode())
    for leaf in leaves:
        if isinstance(leaf, torch.Tensor):
            found.update(leaf.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            found.update(repr(leaf).encode())
    return found.hexdigest()[:16]
