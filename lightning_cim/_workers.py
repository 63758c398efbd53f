"""Jobs side by side in forked processes. Any room may use it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")


def side_by_side(
    run: Callable[[Job], Result], jobs: Sequence[Job], workers: int, on_accelerator: bool = False
) -> Iterator[tuple[Job, Result]]:
    """Run jobs, in this process if there is one worker, and give each with its result as it is done.

    Args:
        run: Takes a job. Forked processes inherit it with all it holds, so that only jobs and results are pickled.
        jobs: What to run.
        workers: Processes, one thread each.
        on_accelerator: Whether ``run`` computes elsewhere than on the CPU.

    Raises:
        ValueError: Several workers where that does not work.

    Example:
        >>> list(side_by_side(str.upper, ["a", "b"], workers=1))
        [('a', 'A'), ('b', 'B')]
    """
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, run(job)
        return
    if on_accelerator or "fork" not in multiprocessing.get_all_start_methods():
        raise ValueError("workers > 1 needs a CPU run on a system that can fork; use workers=1, or DDP over devices")
    _Worker.inherited = run
    try:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_Worker.start) as pool:
            futures = {pool.submit(_Worker.run, job): job for job in jobs}
            for future in as_completed(futures):
                yield futures[future], future.result()
    finally:
        _Worker.inherited = None


class _Worker:
    """What a forked process needs; it inherits the module and the data instead of pickling them."""

    inherited: Callable[[Any], Any] | None = None

    @staticmethod
    def start() -> None:
        torch.set_num_threads(1)  # a forked process must not enter the parent's thread pool
        end_with_parent()

    @staticmethod
    def run(job: Any) -> Any:
        assert _Worker.inherited is not None
        return _Worker.inherited(job)


def end_with_parent() -> None:
    """Let this worker end when the process that started it does.

    Otherwise workers of a killed run go on with its jobs, beside those of the run that continues it.
    """
    parent = multiprocessing.parent_process()

    def wait() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
