"""Kill a program that has worker processes, and see whether they end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

LATEST = 60.0


def left_after_kill(program: str, folder: Path, workers: int) -> list[int]:
    """Process ids of workers that outlive the program; each must write a file named after its id into the folder."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    path = folder / "program.py"
    path.write_text(program)
    ids = folder / "ids"
    ids.mkdir()
    with subprocess.Popen([sys.executable, str(path), str(ids)], env=environment) as started:
        _until(lambda: len(list(ids.iterdir())) == workers or started.poll() is not None)
        assert started.poll() is None, "ended before it was killed"
        started.send_signal(signal.SIGKILL)
    found = [int(file.name) for file in ids.iterdir()]
    assert len(found) == workers
    _until(lambda: not any(map(_runs, found)))
    left = [process for process in found if _runs(process)]
    for process in left:
        os.kill(process, signal.SIGKILL)
    return left


def _until(condition) -> None:
    end = time.monotonic() + LATEST
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)


def _runs(process: int) -> bool:
    """Whether it is there and no zombie."""
    try:
        os.kill(process, 0)
        state = Path(f"/proc/{process}/stat")
        return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
