"""Workers side by side."""

import os

import pytest

from lightning_cim._workers import side_by_side
from tests.helpers.orphans import left_after_kill

PROGRAM = """
import os, sys, time
from pathlib import Path
from lightning_cim._workers import side_by_side

def work(job):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

list(side_by_side(work, range(4), workers=2))
"""


def test_workers_are_other_processes_and_do_every_job():
    found = dict(side_by_side(lambda job: (job * job, os.getpid()), range(5), workers=2))
    assert [found[job][0] for job in range(5)] == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in found.values()}


def test_an_accelerator_is_not_forked():
    with pytest.raises(ValueError, match="workers > 1 needs a CPU run"):
        list(side_by_side(str, range(2), workers=2, on_accelerator=True))


def test_no_worker_outlives_a_kill(tmp_path):
    assert left_after_kill(PROGRAM, tmp_path, workers=2) == []
