"""A variation at several times since programming."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lightning_cim.variation.base import Variation
from lightning_cim.variation.times import label, seconds


def increasing(times: Sequence[str | float]) -> list[float]:
    """Times in seconds, after a check that they increase.

    Args:
        times: Seconds, or texts such as ``"1h"``; one or more.

    Raises:
        ValueError: None, one that is no time, or times that do not increase.

    Example:
        >>> increasing(["1s", 60, "1h"])
        [1.0, 60.0, 3600.0]
    """
    if isinstance(times, (str, int, float)):
        raise ValueError(f"times must be a list such as ['1s', '1h', '1d'], got {times!r}")
    found = [seconds(time) for time in times]
    if not found:
        raise ValueError("times must hold at least one time since programming, such as ['1s', '1h', '1d']; it is empty")
    for early, late in pairwise(found):
        if late <= early:
            raise ValueError(f"times must increase, but {label(late)} comes after {label(early)}")
    return found


def aged(variation: Variation, times: Sequence[float]) -> dict[float, Variation]:
    """The variation at each time.

    Args:
        variation: What devices do to a value.
        times: Seconds since programming, one or more.

    Raises:
        ValueError: A time at which the variation is not known, or a variation in which nothing depends on time.
    """
    found = {time: variation.at(time) for time in times}
    if not _depends_on_time(variation, found):
        raise ValueError(
            f"nothing in {variation} depends on time, so its chips are the same at all times. Add what time does, such"
            " as variation + Drift(nu=0.05) or Drift.preset(...), or leave times out."
        )
    return found


def _depends_on_time(variation: Variation, found: dict[float, Variation]) -> bool:
    if any(later != variation for later in found.values()):
        return True
    if len(found) > 1:
        return False
    # The only time may be the one that the variation has already.
    try:
        return variation.at(2 * next(iter(found))) != variation
    except ValueError:
        return True
