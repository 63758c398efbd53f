"""The file of scores: a killed run goes on from it, and another run's is refused."""

import numpy as np
import pytest
import torch

import lightning_cim as cim
from tests.programming.programmed import programmed
from tests.programming.toys import net


def test_a_killed_run_goes_on_where_it_was(tmp_path, monkeypatch):
    model, path = net(), tmp_path / "runs" / "scores.csv"
    options = {"max_drop": 0.03, "granularity": 0.125}
    whole = programmed(model, **options)
    measured = []
    from lightning_cim.programming import score

    call = score.Scorer.__call__

    def dying(self, chip=None):
        if len(measured) == 5:
            raise KeyboardInterrupt
        measured.append(chip)
        return call(self, chip)

    with monkeypatch.context() as patch:
        patch.setattr(score.Scorer, "__call__", dying)
        with pytest.raises(KeyboardInterrupt):
            programmed(model, csv=path, **options)
    kept = path.read_text()
    assert kept.count("\n") == 2 + 4  # the first of the five is the ideal
    path.write_text(kept + "2,0,0.")  # a line that a kill cut off
    measured.clear()
    with monkeypatch.context() as patch:
        patch.setattr(score.Scorer, "__call__", lambda self, chip=None: (measured.append(chip), call(self, chip))[1])
        resumed = programmed(model, csv=path, **options)
    assert path.read_text().startswith(kept)
    points = sum(int(np.ceil(stop / 6)) + 1 for stop in whole.stops)
    assert len(measured) == 1 + points - 4
    assert np.array_equal(resumed.curve.scores, whole.curve.scores)
    assert np.array_equal(resumed.stops, whole.stops)
    # all of it again measures nothing but the ideal
    measured.clear()
    monkeypatch.setattr(score.Scorer, "__call__", lambda self, chip=None: (measured.append(chip), call(self, chip))[1])
    again = programmed(model, csv=path, **options)
    assert len(measured) == 1
    assert np.array_equal(again.curve.scores, whole.curve.scores)


@pytest.mark.parametrize("change", ["model", "granularity", "variation", "method"])
def test_a_csv_of_another_run_is_refused(tmp_path, change):
    model, path = net(), tmp_path / "scores.csv"
    programmed(model, verify_fraction=0.25, csv=path)
    options = {
        "model": {},
        "granularity": {"granularity": 0.1},
        "variation": {"variation": cim.Gaussian(0.2)},
        "method": {"method": "random"},
    }[change]
    if change == "model":
        with torch.no_grad():
            model[0].bias += 1
    with pytest.raises(ValueError, match="holds another programming run"):
        programmed(model, verify_fraction=0.25, csv=path, **options)


@pytest.mark.parametrize(
    ("text", "message"),
    [("accuracy,1\n", "line 1: not a file of programmed chips"), ("# lightning_cim programming {\n", "line 1: not a")],
)
def test_another_file_is_not_overwritten(tmp_path, text, message):
    path = tmp_path / "scores.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        programmed(net(), verify_fraction=0.25, csv=path)
    assert path.read_text() == text


def test_a_broken_line_is_named(tmp_path):
    path = tmp_path / "scores.csv"
    programmed(net(), verify_fraction=0.25, csv=path)
    lines = path.read_text().splitlines()
    lines[3] = "0,one,2"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"scores.csv, line 4: expected 6 numbers, got '0,one,2'"):
        programmed(net(), verify_fraction=0.25, csv=path)
