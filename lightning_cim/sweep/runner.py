"""An offline sweep: its runs one after another or side by side, a table as it goes, and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_cim._progress import Advance, progress_bar
from lightning_cim.sweep.one_run import Run, execute, finished
from lightning_cim.sweep.suggestions import runs_in, suggest
from lightning_cim.sweep.sweep_file import SweepFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
        part = Path(path).with_name(Path(path).name + ".part")
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
) -> SweepResult:
    """Run a sweep without a server.

    Each run is a process with ``WANDB_MODE=offline`` and a folder of its own. A killed sweep, given the same file and
    folder, does the runs that are not finished, with the same values: run i's depend on the seed, and for ``bayes`` on
    the results of runs 0 to i - jobs, never on which run happened to end first.

    Args:
        path: Sweep file, as ``wandb sweep`` takes it.
        out: Folder; default ``runs/sweeps/`` and the file's name.
        jobs: Processes side by side.
        count: Runs; default: all of a grid, or the file's ``run_cap``.
        seed: Of random and bayes.
        progress: Show a bar.

    Returns:
        What came of every run; ``out`` holds ``results.csv``, too.

    Raises:
        ValueError: A file that cannot run offline, or a folder that holds another sweep.
    """
    sweep = SweepFile.read(path)
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")
    total = runs_in(sweep, count)
    folder = Path(out) if out is not None else Path("runs/sweeps") / sweep.name
    _claim(folder, sweep, jobs, seed)
    runs = {run.index: run for index in range(total) if (run := finished(_of(folder, index))) is not None}
    with progress_bar(progress, f"sweep {sweep.name}", total, len(runs)) as advance:
        _run_all(sweep, folder, total, jobs, seed, runs, advance)
    return _written(sweep, folder, runs)


def _run_all(
    sweep: SweepFile, folder: Path, total: int, jobs: int, seed: int, runs: dict[int, Run], advance: Advance
) -> None:
    waiting: dict[int, Future[Run]] = {}

    def collect(last: int) -> None:
        for index in sorted(index for index in waiting if index <= last):
            runs[index] = waiting.pop(index).result()
            found = _written(sweep, folder, runs)
            advance(1, _note(found, runs[index]))

    with ThreadPoolExecutor(jobs) as pool:
        try:
            for index in range(total):
                if index in runs:
                    continue
                collect(index - jobs)
                before = [(runs[i].values, runs[i].score(sweep.metric)) for i in range(index - jobs + 1)]
                waiting[index] = pool.submit(
                    execute, sweep, index, suggest(sweep, index, seed, before), _of(folder, index)
                )
            collect(total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


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


def _claim(folder: Path, sweep: SweepFile, jobs: int, seed: int) -> None:
    """Make the folder, or see that it belongs to the same sweep.

    Raises:
        ValueError: It belongs to another.
    """
    about: dict[str, Any] = {"sweep": sweep.path.read_text(encoding="utf-8"), "seed": seed}
    if sweep.method == "bayes":
        about["jobs"] = jobs  # decides which results a suggestion may look at
    path = folder / "sweep.json"
    text = json.dumps(about, indent=1)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{folder} holds another sweep (see {path}); choose another --out, or delete it")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
