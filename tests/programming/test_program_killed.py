"""A programming run that is really killed finishes with the numbers of one that was not."""

import numpy as np
import pytest
import torch

from lightning_cim.programming import score
from lightning_cim.programming.journal import SCORES
from tests.evaluation.killed import kill_in_the_middle, rows_so_far
from tests.programming.killed import CHIPS, PLACES, POINTS, mark_of, programmed
from tests.programming.toys import net

# Lightning starts further ranks with the words that started the first, and has none of a script given by -c.
SCRIPT = "import os, sys; os.execv(sys.executable, [sys.executable, '-m', 'tests.programming.killed', *sys.argv[1:]])"
QUICK = ("scores", "line")


def assert_same(found, expected):
    """Report, selection and programmed weights, bit for bit."""
    assert str(found) == str(expected)
    assert torch.equal(found.ranking.order, expected.ranking.order)
    assert found.curve.ideal == expected.curve.ideal
    assert (found.nwc, found.test.ideal) == (expected.nwc, expected.test.ideal)
    for name in ("scores", "fraction", "nwc_verify_only", "nwc_total"):
        np.testing.assert_array_equal(getattr(found.curve, name), getattr(expected.curve, name))
    for one, other in ((found.stops, expected.stops), (found.test.scores, expected.test.scores)):
        np.testing.assert_array_equal(one, other)
    model = net()
    for r in range(CHIPS):
        weights = expected.weights(model, r)
        assert all(torch.equal(value, weights[name]) for name, value in found.weights(model, r).items())


def files_of(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The report, and the file, of a run that nothing disturbed."""
    path = tmp_path_factory.mktemp("whole") / "scores.csv"
    return programmed(path), path.read_bytes()


def started(path):
    """Rows so far, of one process or of several; a row for the mark that a run leaves at its place."""
    files = [file for file in path.parent.iterdir() if not file.name.endswith((".part", ".mark"))]
    rows = {key: row for file in files for key, row in rows_so_far(SCORES.read, file).items()}
    return list(rows) + ["mark"] * 100 * mark_of(path).exists()


def resumed(path, monkeypatch):
    """The report of the next start, and how many scores it measured on the validation data."""
    measured, call = [], score.Scorer.__call__

    def counting(self, chip=None):
        measured.append(chip)
        return call(self, chip)

    with monkeypatch.context() as patch:
        patch.setattr(score.Scorer, "__call__", counting)
        report = programmed(path)
    return report, len(measured) - 1 - (CHIPS + 1)  # without the ideal, and the test data


@pytest.mark.parametrize("place", [pytest.param(p, marks=[] if p in QUICK else pytest.mark.slow) for p in PLACES])
def test_the_next_start_ends_as_if_nothing_had_happened(tmp_path, monkeypatch, whole, place):
    path = tmp_path / "scores.csv"
    at_least = 6 if place in ("scores", "workers", "ranks") else 100
    kill_in_the_middle(SCRIPT, [path, place], lambda: started(path), at_least, tmp_path, group=True)
    assert mark_of(path).exists() == (place in ("sensitivity", "line", "file"))
    done = [key for key in started(path) if key != "mark"]
    assert path.exists() == (place not in ("sensitivity", "ranks"))
    assert len(done) == {"sensitivity": 0, "line": 6, "file": CHIPS * POINTS}.get(place, len(done))
    if place in ("workers", "ranks"):
        assert len({chip for chip, _ in done}) > 1
    report, measured = resumed(path, monkeypatch)
    assert measured == CHIPS * POINTS - len(done)
    assert_same(report, whole[0])
    assert path.read_bytes() == whole[1]
    assert [name for name in files_of(tmp_path) if not name.endswith(".mark")] == ["scores.csv"]


def test_the_whole_run_has_something_to_compare(whole):
    report, text = whole
    assert text.count(b"\n") == 2 + CHIPS * POINTS
    assert np.unique(report.curve.scores).size > 3
    assert np.unique(report.curve.nwc_total).size > CHIPS


@pytest.mark.parametrize("workers", [2, 5])
def test_workers_find_what_one_process_finds(tmp_path, whole, workers):
    path = tmp_path / "scores.csv"
    assert_same(programmed(path, workers=workers), whole[0])
    assert path.read_bytes() == whole[1]


def test_no_worker_is_refused():
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        programmed(workers=0)
