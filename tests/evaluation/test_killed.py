"""An evaluation that is really killed goes on at the next chip."""

from pathlib import Path

import numpy as np
import pytest

import lightning_cim as cim
from lightning_cim.evaluation.journal import read_rows
from tests.evaluation.killed import Counting, kill_in_the_middle, rows_so_far
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer

CHIPS = 8

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")

SCRIPT = """
import sys
import lightning_cim as cim
from tests.evaluation.killed import Slow
from tests.evaluation.toys import VARIATION, loader, trainer

cim.evaluate_chips(
    trainer(), Slow(), loader(), variation=VARIATION, chips=int(sys.argv[2]), csv=sys.argv[1], progress=False
)
"""


def evaluate(model, chips=CHIPS, **options):
    return cim.evaluate_chips(trainer(), model, loader(), variation=VARIATION, chips=chips, progress=False, **options)


def rows_of(path):
    return rows_so_far(read_rows, path)


def test_only_the_missing_chips_are_simulated_after_a_kill(tmp_path):
    path = tmp_path / "chips.csv"
    kill_in_the_middle(SCRIPT, [path, CHIPS], lambda: rows_of(path), at_least=2, folder=tmp_path)
    done = len(rows_of(path))
    assert 2 <= done < CHIPS
    model = Counting()
    resumed = evaluate(model, csv=path)
    assert model.runs == CHIPS - done
    whole = evaluate(Counting(), csv=tmp_path / "whole.csv")
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    for name in whole.metrics:
        np.testing.assert_array_equal(resumed.values[name], whole.values[name])
    from_file = cim.ChipResult.from_csv(path)
    assert from_file.chips == list(range(CHIPS))
    np.testing.assert_array_equal(from_file.values["test/loss"], whole.values["test/loss"])


def test_a_finished_file_simulates_nothing_and_more_chips_only_the_new_ones(tmp_path):
    model, path = Counting(), tmp_path / "chips.csv"
    evaluate(model, chips=2, csv=path)
    assert model.runs == 2
    evaluate(model, chips=2, csv=path)
    assert model.runs == 2
    grown = evaluate(model, chips=4, csv=path)
    assert model.runs == 4
    assert evaluate(model, chips=3, csv=path).chips == [0, 1, 2]
    assert model.runs == 4
    np.testing.assert_array_equal(grown.values["test/loss"], evaluate(Counting(), chips=4).values["test/loss"])


def test_a_line_that_was_cut_off_and_the_files_of_ranks_are_continued(tmp_path):
    whole = evaluate(Counting(), csv=tmp_path / "whole.csv")
    about, header, *rows = (tmp_path / "whole.csv").read_text().splitlines(keepends=True)
    path = tmp_path / "chips.csv"
    path.write_text("".join([about, header, rows[0], rows[5][:-3]]))
    Path(f"{path}.rank0").write_text("".join([about, header, rows[2], rows[4]]))
    Path(f"{path}.rank11").write_text("".join([about, header, rows[3], rows[7][:4]]))
    Path(f"{path}.rank1").write_text(about)
    Path(f"{path}.rank-of-mine").write_text("keep")
    model = Counting()
    found = evaluate(model, csv=path, workers=1)
    assert model.runs == CHIPS - 4
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    np.testing.assert_array_equal(found.values["test/loss"], whole.values["test/loss"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["chips.csv", "chips.csv.rank-of-mine", "whole.csv"]


def test_workers_leave_the_file_of_one_process(tmp_path):
    evaluate(Counting(), csv=tmp_path / "whole.csv")
    evaluate(Counting(), csv=tmp_path / "chips.csv", workers=3)
    assert (tmp_path / "chips.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"variation": cim.Gaussian(0.1)}, {"stage": "validate"}, {"mapping": cim.Mapping(exclude=["net.0"])}],
)
def test_a_file_of_other_settings_is_refused(tmp_path, change):
    options = {"variation": VARIATION, "chips": 1, "csv": tmp_path / "chips.csv", "progress": False}
    cim.evaluate_chips(trainer(), Classifier(), loader(), **options)
    with pytest.raises(ValueError, match="holds chips of another evaluation"):
        cim.evaluate_chips(trainer(), Classifier(), loader(), **{**options, **change})


def test_a_file_of_other_weights_or_hardware_is_refused(tmp_path):
    options = {"variation": VARIATION, "chips": 1, "csv": tmp_path / "chips.csv", "progress": False}

    def quantised(bits):
        return trainer(callbacks=[cim.MixedPrecision(weight_bits=bits, activation_bits=None)])

    model = Classifier()
    cim.evaluate_chips(quantised(8), model, loader(), **options)
    cim.evaluate_chips(quantised(8), model, loader(), **options)
    for other in (quantised(4), trainer()):
        with pytest.raises(ValueError, match="holds chips of another evaluation"):
            cim.evaluate_chips(other, model, loader(), **options)
    model.net[0].bias.data[0] += 1
    with pytest.raises(ValueError, match="holds chips of another evaluation"):
        cim.evaluate_chips(quantised(8), model, loader(), **options)
