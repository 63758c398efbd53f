"""An evaluation at several times that is really killed goes on at the next time of the same chip."""

import numpy as np
import pytest

import lightning_cim as cim
from lightning_cim.evaluation.journal import CHIP_TIMES
from lightning_cim.evaluation.retention_result import RetentionResult
from tests.evaluation.aging import Growing
from tests.evaluation.killed import Counting, kill_in_the_middle, rows_so_far
from tests.evaluation.toys import Classifier, loader, trainer

CHIPS, TIMES = 4, ["1s", "1h", "1d"]

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")

SCRIPT = """
import sys
import lightning_cim as cim
from tests.evaluation.aging import Growing
from tests.evaluation.killed import Slow
from tests.evaluation.test_times_killed import CHIPS, TIMES
from tests.evaluation.toys import loader, trainer

cim.evaluate_chips(
    trainer(), Slow(), loader(), variation=Growing(), chips=CHIPS, times=TIMES, csv=sys.argv[1], progress=False
)
"""


def evaluate(model, chips=CHIPS, times=TIMES, variation=None, **options):
    variation = variation or Growing()
    return cim.evaluate_chips(
        trainer(), model, loader(), variation=variation, chips=chips, times=times, progress=False, **options
    )


def rows_of(path):
    return rows_so_far(CHIP_TIMES.read, path)


def assert_equal(first, second):
    assert first.times == second.times
    for one, other in zip(first.results.values(), second.results.values(), strict=True):
        assert one.chips == other.chips
        for name in one.metrics:
            np.testing.assert_array_equal(one.values[name], other.values[name])


def test_only_the_missing_passes_are_run_after_a_kill(tmp_path):
    path = tmp_path / "chips.csv"
    kill_in_the_middle(SCRIPT, [path], lambda: rows_of(path), at_least=4, folder=tmp_path)
    done = list(rows_of(path))
    assert 4 <= len(done) < CHIPS * len(TIMES)
    assert done == [(chip, at) for chip in range(CHIPS) for at in (1.0, 3600.0, 86400.0)][: len(done)]
    model = Counting()
    resumed = evaluate(model, csv=path)
    assert model.runs == CHIPS * len(TIMES) - len(done)
    assert_equal(resumed, evaluate(Counting()))
    assert_equal(RetentionResult.from_csv(path), resumed)


def test_times_and_chips_that_are_added_later_keep_the_finished_ones(tmp_path):
    model, path = Counting(), tmp_path / "chips.csv"
    evaluate(model, chips=2, csv=path)
    assert model.runs == 2 * 3
    evaluate(model, chips=2, csv=path)
    assert model.runs == 2 * 3
    grown = evaluate(model, chips=2, csv=path, times=["1s", "1min", "1h", "1d"])
    assert model.runs == 2 * 4
    assert_equal(grown, evaluate(Counting(), chips=2, times=["1s", "1min", "1h", "1d"]))
    evaluate(model, chips=3, csv=path)
    assert model.runs == 2 * 4 + 3
    fewer = evaluate(model, chips=1, csv=path, times=["1h"], workers=2)
    assert model.runs == 2 * 4 + 3
    assert (fewer.times, fewer.at("1h").chips) == ([3600.0], [0])
    assert len(rows_of(path)) == 2 * 4 + 3


@pytest.mark.parametrize("change", [{"seed": 1}, {"variation": Growing(0.2)}, {"stage": "validate"}])
def test_a_file_of_other_settings_is_refused(tmp_path, change):
    options = {"chips": 1, "csv": tmp_path / "chips.csv"}
    evaluate(Classifier(), **options)
    with pytest.raises(ValueError, match="holds chips of another evaluation"):
        evaluate(Classifier(), **{**options, **change})


def test_a_file_with_times_is_not_continued_without_and_the_other_way_round(tmp_path):
    options = {"variation": Growing(), "chips": 1, "progress": False}
    plain, timed = tmp_path / "plain.csv", tmp_path / "timed.csv"
    cim.evaluate_chips(trainer(), Classifier(), loader(), csv=plain, **options)
    evaluate(Classifier(), chips=1, csv=timed)
    texts = plain.read_text(), timed.read_text()
    with pytest.raises(ValueError, match=r"plain\.csv, line 1: not a file of chips at several times but of chips"):
        evaluate(Classifier(), chips=1, csv=plain)
    with pytest.raises(ValueError, match=r"timed\.csv, line 1: not a file of chips but of chips at several times"):
        cim.evaluate_chips(trainer(), Classifier(), loader(), csv=timed, **options)
    assert (plain.read_text(), timed.read_text()) == texts
