"""Interleaved timing of alternatives in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def interleave(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.process_time
) -> dict[str, list[float]]:
    """Seconds of each variant, one run of each in every round, after one untimed run of each.

    Args:
        variants: What to run, by name.
        rounds: How often.
        clock: ``time.process_time`` for CPU time of this process, ``time.perf_counter`` for wall time.

    Returns:
        By name, one number a round.
    """
    for run in variants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, run in variants.items():
            begin = clock()
            run()
            times[name].append(clock() - begin)
    return times


def ratios(times: dict[str, list[float]], base: str) -> dict[str, tuple[float, float]]:
    """Ratio of minima, and median of the rounds' own ratios, of each variant to a base."""
    return {
        name: (
            min(sample) / min(times[base]),
            statistics.median(a / b for a, b in zip(sample, times[base], strict=True)),
        )
        for name, sample in times.items()
    }


def show(title: str, times: dict[str, list[float]], base: str, bars: dict[str, float]) -> None:
    """Print a table of ratios with the bar that each should keep."""
    print(f"\n{title}")
    print(f"{'':44}{'ratio of minima':>16}{'median ratio':>14}{'bar':>8}")
    for name, (least, median) in ratios(times, base).items():
        bar = f"<= {bars[name]}" if name in bars else ""
        print(f"{name:44}{least:16.3f}{median:14.3f}{bar:>8}")
