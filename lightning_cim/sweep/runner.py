"""An offline sweep: its runs one after another or side by side, a table as it goes, and a picture."""

from __future__ import annotations

import csv
import io
import json
import os
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lightning_cim._progress import Advance, progress_bar
from lightning_cim.sweep.one_run import Run, claimed, execute, finished
from lightning_cim.sweep.suggestions import runs_in, suggest
from lightning_cim.sweep.sweep_file import SweepFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOOK_AGAIN = 0.5
"""Seconds until another look at runs that other processes do."""


@dataclass(frozen=True)
class SweepResult:
    """All runs of a sweep.

    Attributes:
        sweep: The file.
        runs: In the order of their indices.
    """

    sweep: SweepFile
    runs: tuple[Run, ...]

    @property
    def best(self) -> Run | None:
        """The run with the best metric; None without one."""
        scored = [run for run in self.runs if run.score(self.sweep.metric) is not None]
        sign = 1.0 if self.sweep.goal == "maximize" else -1.0
        return max(scored, key=lambda run: sign * (run.score(self.sweep.metric) or 0.0), default=None)

    def to_csv(self, path: str | PathLike[str]) -> None:
        """One row a run: number, exit status, seconds, parameters, then every metric that any run reported."""
        text = io.StringIO()
        metrics = sorted({name for run in self.runs for name in run.metrics})
        names = [parameter.name for parameter in self.sweep.parameters]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["run", "status", "seconds", *names, *metrics])
        for run in self.runs:
            values = [json.dumps(value) if not isinstance(value, str) else value for value in run.values.values()]
            found = [run.metrics.get(name, "") for name in metrics]
            writer.writerow([run.index, run.status, f"{run.seconds:.1f}", *values, *found])
        part = Path(path).with_name(f"{Path(path).name}.{os.getpid()}.part")  # several processes may write
        part.write_text(text.getvalue(), encoding="utf-8")
        part.replace(path)

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Parallel coordinates: a line a run through its parameters to its metric.

        Args:
            ax: Draw here instead of on a new figure.

        Raises:
            ImportError: matplotlib, the extra ``lightning-cim[plot]``, is missing.
        """
        from lightning_cim.sweep.parallel_coordinates import draw

        return draw(self.sweep, self.runs, ax)


def run_offline(
    path: str | PathLike[str],
    out: str | PathLike[str] | None = None,
    jobs: int = 1,
    count: int | None = None,
    seed: int = 0,
    progress: bool = False,
    agents: int = 1,
) -> SweepResult:
    """Run a sweep without a server.

    Each run is a process with ``WANDB_MODE=offline`` and a folder of its own. A killed sweep, given the same file and
    folder, does the runs that are not finished, with the same values: run i's depend on the seed, and for ``bayes`` on
    the results of runs 0 to i - jobs x agents, never on which run happened to end first. Several processes given the
    same file and folder, on one machine or on several that share it, do each run once between them, and each returns
    all.

    Args:
        path: Sweep file, as ``wandb sweep`` takes it.
        out: Folder; default ``runs/sweeps/`` and the file's name.
        jobs: Processes side by side.
        count: Runs; default: all of a grid, or the file's ``run_cap``.
        seed: Of random and bayes.
        progress: Show a bar.
        agents: How many share the folder, with as many jobs each; only ``bayes`` has to know.

    Returns:
        What came of every run; ``out`` holds ``results.csv``, too.

    Raises:
        ValueError: A file that cannot run offline, or a folder that holds another sweep.
    """
    sweep = SweepFile.read(path)
    for name, value in (("jobs", jobs), ("agents", agents)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    total = runs_in(sweep, count)
    folder = Path(out) if out is not None else Path("runs/sweeps") / sweep.name
    _claim(folder, sweep, jobs * agents, seed)
    runs = {run.index: run for index in range(total) if (run := finished(_of(folder, index))) is not None}
    with progress_bar(progress, f"sweep {sweep.name}", total, len(runs)) as advance:
        _run_all(sweep, folder, total, jobs, jobs * agents, seed, runs, advance)
    return _written(sweep, folder, runs)


def _run_all(
    sweep: SweepFile,
    folder: Path,
    total: int,
    jobs: int,
    lag: int,
    seed: int,
    runs: dict[int, Run],
    advance: Advance,
) -> None:
    """Do what nobody has done and nobody is doing, until every run is there."""
    mine: dict[int, Future[Run]] = {}

    def add(run: Run) -> None:
        runs[run.index] = run
        advance(1, _note(_written(sweep, folder, runs), run))

    with ThreadPoolExecutor(jobs) as pool:
        while len(runs) < total:
            for index in range(total):
                if index in runs or index in mine:
                    continue
                earlier = [runs.get(i) for i in range(index - lag + 1)] if sweep.method == "bayes" else []
                if len(mine) == jobs or None in earlier:
                    break
                run, lock = _found_or_claimed(_of(folder, index))
                if run is not None:
                    add(run)
                elif lock is not None:
                    before = [(run.values, run.score(sweep.metric)) for run in earlier if run is not None]
                    values = suggest(sweep, index, seed, before)
                    mine[index] = pool.submit(execute, sweep, index, values, _of(folder, index), lock)
            wait_for = None if len(mine) == jobs else _LOOK_AGAIN  # for what others are doing
            if mine:
                wait(mine.values(), wait_for, FIRST_COMPLETED)
            elif len(runs) < total:
                time.sleep(_LOOK_AGAIN)
            for index in [index for index, future in mine.items() if future.done()]:
                add(mine.pop(index).result())


def _found_or_claimed(folder: Path) -> tuple[Run | None, IO[bytes] | None]:
    """A run that has ended, or the right to do it; neither where somebody is doing it."""
    run = finished(folder)
    if run is not None:
        return run, None
    lock = claimed(folder)
    if lock is None:
        return None, None
    run = finished(folder)  # it may have ended before the lock was free
    if run is not None:
        lock.close()
        return run, None
    return None, lock


def _written(sweep: SweepFile, folder: Path, runs: Mapping[int, Run]) -> SweepResult:
    result = SweepResult(sweep, tuple(runs[index] for index in sorted(runs)))
    result.to_csv(folder / "results.csv")
    return result


def _note(found: SweepResult, last: Run) -> str:
    if last.status:
        return f"run {last.index} failed, see its log.txt"
    best = found.best
    return "" if best is None else f"best {found.sweep.metric}: {best.score(found.sweep.metric):.4g} (run {best.index})"


def _of(folder: Path, index: int) -> Path:
    return folder / "runs" / f"{index:04d}"


def _claim(folder: Path, sweep: SweepFile, lag: int, seed: int) -> None:
    """Make the folder, or see that it belongs to the same sweep.

    Raises:
        ValueError: It belongs to another.
    """
    about: dict[str, Any] = {"sweep": sweep.path.read_text(encoding="utf-8"), "seed": seed}
    if sweep.method == "bayes":
        about["jobs"] = lag  # decides which results a suggestion may look at
    path = folder / "sweep.json"
    text = json.dumps(about, indent=1)
    while (lock := claimed(folder)) is None:  # another process of this sweep is just here
        time.sleep(_LOOK_AGAIN)
    with lock:
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ValueError(f"{folder} holds another sweep (see {path}); choose another --out, or delete it")
        part = path.with_name(path.name + ".part")  # a kill must leave no half of it
        part.write_text(text, encoding="utf-8")
        part.replace(path)
