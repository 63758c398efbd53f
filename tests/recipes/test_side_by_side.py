"""Jobs in processes of their own."""

import os

import pytest

from recipes._side_by_side import side_by_side
from tests.helpers.orphans import left_after_kill

PROGRAM = """
import os, sys, time
from pathlib import Path
from recipes._side_by_side import side_by_side

def work(job):
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    list(side_by_side(work, range(4), processes=2))
"""


def process_of(job):
    return os.getpid()


@pytest.mark.parametrize(("processes", "jobs"), [(1, 3), (2, 1), (2, 3)])
def test_every_job_is_done_here_or_elsewhere(processes, jobs):
    found = dict(side_by_side(process_of, range(jobs), processes))
    assert sorted(found) == list(range(jobs))
    assert (os.getpid() in found.values()) == (processes == 1 or jobs == 1)


def test_an_error_ends_it():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side((1).__floordiv__, [1, 0, 1], 2))


def test_no_process_outlives_a_kill(tmp_path):
    assert left_after_kill(PROGRAM, tmp_path, workers=2) == []
