"""One run of an offline sweep: a process with a folder of its own."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from lightning_cim._files import json_of
from lightning_cim.sweep.command import command_of
from lightning_cim.sweep.report import METRICS_FILE, RUN_ID
from lightning_cim.sweep.suggestions import Values
from lightning_cim.sweep.sweep_file import SweepFile


@dataclass(frozen=True)
class Run:
    """What came of one run.

    Attributes:
        index: In its sweep.
        values: Of the parameters.
        metrics: What the program reported.
        status: Its exit status; 0 is success.
        seconds: Wall time.
    """

    index: int
    values: Values
    metrics: dict[str, float]
    status: int
    seconds: float

    def score(self, metric: str | None) -> float | None:
        """The sweep's metric; None where the run failed or did not report it."""
        return self.metrics.get(metric) if metric is not None and self.status == 0 else None


def finished(folder: Path) -> Run | None:
    """The run that a folder holds, if it came to its end.

    Raises:
        ValueError: Its file is damaged.
    """
    path = folder / "run.json"
    if not path.exists():
        return None
    about = json_of(path)
    kinds: dict[str, Any] = {"index": int, "values": dict, "metrics": dict, "status": int, "seconds": (int, float)}
    is_run = isinstance(about, dict) and about.keys() == kinds.keys()
    if not is_run or not all(isinstance(about[name], kind) for name, kind in kinds.items()):
        raise ValueError(f"{path} is damaged: no run with {', '.join(kinds)}; delete it to run again")
    return Run(**about)


def execute(sweep: SweepFile, index: int, values: Values, folder: Path, lock: IO[bytes]) -> Run:
    """Run the program.

    Args:
        sweep: The file.
        index: Of the run.
        values: Of the parameters.
        folder: Of the run; receives ``log.txt``, ``metrics.json``, W&B's offline run, and ``run.json`` at the end.
        lock: What :func:`claimed` gave; closed at the end.

    Raises:
        ValueError: A command that cannot be run.
    """
    with lock, open(folder / "log.txt", "ab") as log:
        metrics = folder / "metrics.json"
        metrics.unlink(missing_ok=True)
        words = command_of(sweep.command, sweep.program, values, folder)
        log.write((" ".join(words) + "\n").encode())
        log.flush()
        environment = {
            **os.environ,
            "WANDB_MODE": "offline",
            "WANDB_DIR": str(folder.resolve()),
            "WANDB_RUN_GROUP": sweep.name,
            RUN_ID: f"{sweep.name}-{_short(folder.parent)}-{index:04d}",
            METRICS_FILE: str(metrics.resolve()),
        }
        begin = time.monotonic()
        try:
            # The child holds the lock too, so that one left behind by a kill is not joined by a second one.
            done = subprocess.run(words, env=environment, stdout=log, stderr=log, pass_fds=[lock.fileno()])
        except OSError as error:
            raise ValueError(f"{sweep.path}: cannot run {words[0]!r}: {error}") from error
        found: dict[str, Any] = json_of(metrics) if metrics.exists() else {}
        run = Run(index, values, found, done.returncode, time.monotonic() - begin)
        part = folder / "run.json.part"
        part.write_text(json.dumps(asdict(run), indent=1), encoding="utf-8")
        part.replace(folder / "run.json")
        return run


def _short(folder: Path) -> str:
    """Six digits that tell the runs of one sweep's folder from those of another's."""
    return hashlib.blake2b(str(folder.resolve()).encode(), digest_size=3).hexdigest()


def claimed(folder: Path) -> IO[bytes] | None:
    """The lock of a folder, which is made.

    It holds for all processes that share the folder, on other machines too, until the file is closed and all programs
    that were given it have ended.

    Returns:
        None: somebody else has it.

    Raises:
        ValueError: The folder's file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = open(folder / "lock", "ab")  # noqa: SIM115 - closed by who has it
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError as error:
        lock.close()
        raise ValueError(f"{folder}: its file system does not lock files ({error}); choose another --out") from error
    return lock
