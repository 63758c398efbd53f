"""An evaluation in a process that is really killed in the middle, and a model that counts what is run after it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.evaluation.toys import Classifier

ROOT = Path(__file__).parents[2]


class Slow(Classifier):
    """Slow on purpose, so that the kill comes in the middle."""

    def on_test_epoch_end(self):
        time.sleep(0.2)


class Counting(Classifier):
    """Counts the passes over the test data, one a chip and time."""

    runs = 0

    def on_test_epoch_end(self):
        self.runs += 1


def rows_so_far(read, path):
    """The rows of a file that may not be there yet."""
    try:
        return read(path)[1]
    except (OSError, ValueError):
        return {}


def kill_in_the_middle(script, arguments, rows, at_least, folder, group=False):
    """Runs a script in a process of its own, and kills it (and its children) when ``rows()`` has enough rows."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        env=environment,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=group,
    )
    try:
        deadline = time.monotonic() + 120
        while len(rows()) < at_least and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        if group:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
