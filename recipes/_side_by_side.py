"""Jobs in processes of their own, which end when this one ends."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(run: Callable[[Job], Result], jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, Result]]:
    """Run jobs and give each with its result as it is done.

    Args:
        run: Takes a job; like the jobs and results, something that can be pickled.
        jobs: What to run.
        processes: How many at a time; 1: in this process.

    Example:
        >>> list(side_by_side(str.upper, ["a", "b"], processes=1))
        [('a', 'A'), ('b', 'B')]
    """
    if processes == 1 or len(jobs) <= 1:
        for job in jobs:
            yield job, run(job)
        return
    # Spawned, because a forked process must not enter its parent's thread pool.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(processes, len(jobs)), context, initializer=_end_with_parent)
    try:
        futures = {pool.submit(run, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Without it, processes of a killed command go on, beside those of the command that continues it."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
