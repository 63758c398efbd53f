"""Times since programming, as people write them."""

from __future__ import annotations

import math
import re

SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0, "mo": 30 * 86400.0, "y": 365 * 86400.0}
"""Seconds in each unit; a month has 30 days, a year 365."""
LARGEST = 1e30
_WORDS = {"second": "s", "minute": "min", "hour": "h", "day": "d", "month": "mo", "year": "y"}


def seconds(time: str | float) -> float:
    """A time in seconds.

    Args:
        time: Seconds, or a number with one of the units s, min, h, d, mo and y (or second, minute, hour, day, month,
            year, with or without a plural s), such as ``"1h"`` and ``"30 days"``.

    Raises:
        ValueError: Not such a text, or not a finite number > 0.

    Example:
        >>> seconds("1h"), seconds("2 days"), seconds(20)
        (3600.0, 172800.0, 20.0)
    """
    number: float = math.nan
    if isinstance(time, str):
        found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([a-z]+)\s*", time.lower())
        if found is not None:
            unit = _WORDS.get(found.group(2).removesuffix("s") if len(found.group(2)) > 1 else "", found.group(2))
            try:
                number = float(found.group(1)) * SECONDS.get(unit, math.nan)
            except ValueError:
                number = math.nan
    elif not isinstance(time, bool) and isinstance(time, (int, float)):
        number = float(time) if abs(time) < LARGEST else math.inf  # huge integers have no float
    if not (math.isfinite(number) and number > 0):
        raise ValueError(
            f"a time since programming must be seconds > 0, or a number with one of {', '.join(SECONDS)} such as"
            f" '1h', got {time!r}"
        )
    return number


def label(time: float) -> str:
    """Seconds in the largest unit of which they are at least one.

    Example:
        >>> label(3600.0), label(90.0), label(2592000.0)
        ('1 h', '1.5 min', '1 mo')
    """
    unit = next((name for name, size in reversed(SECONDS.items()) if time >= size), "s")
    return f"{time / SECONDS[unit]:.4g} {unit}"
