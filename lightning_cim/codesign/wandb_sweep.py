"""A design space as a sweep of Weights & Biases."""

from __future__ import annotations

from typing import Any, Literal

from lightning_cim.codesign.space import Space


def to_wandb_sweep(
    space: Space,
    program: str = "recipes/codesign.py",
    arguments: tuple[str, ...] = (),
    metric: str = "reward",
    method: Literal["grid", "random", "bayes"] = "bayes",
) -> dict[str, Any]:
    """The content of a sweep file, one parameter a slot.

    W&B's sweeps need its server; the same file runs offline with ``python -m lightning_cim.sweep FILE --offline``.

    Args:
        space: What to search.
        program: Evaluates one design, given as ``--slot=value``, and reports the metric.
        arguments: In front of the design.
        metric: To be maximised.
        method: Of W&B.

    Raises:
        ValueError: An unknown method.

    Example:
        >>> from lightning_cim.codesign.space import Slot
        >>> to_wandb_sweep(Space((Slot("kernel", (3, 5)),)))["parameters"]
        {'kernel': {'values': [3, 5]}}
    """
    if method not in ("grid", "random", "bayes"):
        raise ValueError(f"W&B's sweeps have the methods grid, random and bayes, got {method!r}")
    return {
        "program": program,
        "method": method,
        "metric": {"name": metric, "goal": "maximize"},
        "parameters": {slot.name: {"values": list(slot.values)} for slot in space.slots},
        "command": ["${env}", "python", "${program}", *arguments, "${args}"],
    }
