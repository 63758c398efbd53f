"""Trials as lines of a file."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cim.codesign.trial import Trial

FINITE = st.floats(allow_nan=False, allow_infinity=False)
LINE = Trial({"a": 1}, {"acc_mean": 0.5}, 0.25, "ok", {"source": "random"}, 7).to_json()


@given(
    design=st.dictionaries(st.text(min_size=1), st.integers() | FINITE | st.text(), min_size=1),
    metrics=st.dictionaries(st.text(), FINITE),
    reward=FINITE,
    status=st.sampled_from(["ok", "invalid", "failed"]),
    meta=st.dictionaries(st.text(), st.none() | st.text() | st.lists(st.integers())),
    number=st.integers(0, 10**9),
)
def test_a_line_reads_back_equal(design, metrics, reward, status, meta, number):
    metrics.pop("reward", None)
    trial = Trial(design, metrics, reward, status, meta, number)
    line = trial.to_json()
    assert "\n" not in line
    assert Trial.from_json(line) == trial


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": "good"}, "reward of a trial must be a number, got 'good'"),
        ({"reward": True}, "must be a number, got True"),
        ({"metrics": {"acc_mean": None}}, "acc_mean of a trial must be a number"),
        ({"metrics": []}, "metrics of a trial must be an object"),
        ({"number": 1.5}, "number of a trial must be an integer"),
        ({"number": -1}, "must be 0 or more"),
        ({"status": "great"}, "must be one of ok, invalid, failed, got 'great'"),
        ({"extra": 1}, "a trial has the fields"),
    ],
)
def test_lines_that_are_no_trial_say_why(change, message):
    with pytest.raises(ValueError, match=message):
        Trial.from_json(json.dumps({**json.loads(LINE), **change}))


@pytest.mark.parametrize("line", [LINE[:-9], "", "[" * 100_000, LINE.replace("0.25", "NaN"), "null"])
def test_torn_and_hostile_lines_are_value_errors(line):
    with pytest.raises(ValueError, match=r"JSON|fields|finite"):
        Trial.from_json(line)


def test_what_is_not_finite_is_refused_where_it_arises():
    with pytest.raises(ValueError, match="Trial 3: acc_mean must be finite, got nan"):
        Trial({}, {"acc_mean": math.nan}, 0.0, "ok", number=3)
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        Trial({}, {}, 0.0, "ok", {"reason": object()}).to_json()
