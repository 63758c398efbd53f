"""Votes: grouping rules, ties, the binomial column and detection latency."""

from itertools import product

import numpy as np
import pytest

from recipes.arrhythmia.voting import binomial_vote, detection_latency, group_votes, latency_summary
from recipes.arrhythmia.windows import Windows


def make(strip, start, y=None, patient=None, rhythm=None, length=512):
    n = len(strip)
    y = np.zeros(n, dtype=np.int64) if y is None else np.array(y, dtype=np.int64)
    patient = np.array([f"P{s}" for s in strip]) if patient is None else np.array(patient)
    rhythm = np.where(y == 1, "VT", "SR") if rhythm is None else np.array(rhythm)
    return Windows(np.zeros((n, length), np.float32), y, patient, rhythm, np.array(strip), np.array(start))


def test_tie_is_va_at_three_and_not_at_four():
    groups = group_votes(make([0] * 6, np.arange(6) * 512))
    assert groups.k_of_n([1, 1, 1, 0, 0, 0], k=3).tolist() == [True]
    assert groups.k_of_n([1, 1, 1, 0, 0, 0]).tolist() == [True]
    assert groups.k_of_n([1, 1, 1, 0, 0, 0], k=4).tolist() == [False]


def test_votes_never_cross_strips_and_leftovers_are_counted():
    strip = [3] * 7 + [5] * 5 + [9] * 13
    start = [*range(0, 7 * 512, 512), *range(0, 5 * 512, 512), *range(0, 13 * 512, 512)]
    y = [1] * 7 + [0] * 5 + [1] * 13
    windows = make(strip, start, y)
    groups = group_votes(windows)
    assert groups.members.tolist() == [list(range(6)), list(range(12, 18)), list(range(18, 24))]
    assert groups.leftover == 1 + 5 + 1
    assert groups.patient.tolist() == ["P3", "P9", "P9"]
    assert groups.y.tolist() == [1, 1, 1]
    assert groups.rhythm.tolist() == ["VT"] * 3
    assert len(groups) == 3


def test_order_in_the_arrays_does_not_matter():
    order = np.random.default_rng(0).permutation(12)
    start = np.tile(np.arange(6) * 512, 2)[order]
    strip = np.repeat([0, 1], 6)[order]
    groups = group_votes(make(strip, start))
    assert (start[groups.members] == np.arange(6) * 512).all()
    assert (strip[groups.members] == [[0] * 6, [1] * 6]).all()


def test_a_missing_window_starts_a_new_group():
    start = np.array([0, 1, 2, 4, 5, 6, 7, 8, 9]) * 512
    groups = group_votes(make([0] * 9, start))
    assert groups.members.tolist() == [[3, 4, 5, 6, 7, 8]]
    assert groups.leftover == 3


def test_no_strip_long_enough_gives_no_vote():
    groups = group_votes(make([0, 0, 1], [0, 512, 0]))
    assert (len(groups), groups.leftover) == (0, 3)
    assert groups.k_of_n([1, 1, 1]).shape == (0,)


def test_mean_probability():
    groups = group_votes(make([0] * 4, np.arange(4) * 512), n=2)
    assert groups.mean_probability([0.9, 0.2, 0.4, 0.4]).tolist() == [True, False]
    assert groups.mean_probability([0.9, 0.2, 0.4, 0.4], threshold=0.3).tolist() == [True, True]


def test_overlapping_and_mixed_strips_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        group_votes(make([0] * 6, np.arange(6) * 80))
    with pytest.raises(ValueError, match="mixes patient"):
        group_votes(make([0, 0], [0, 512], patient=["a", "b"]))
    with pytest.raises(ValueError, match="mixes rhythm"):
        group_votes(make([0, 0], [0, 512], rhythm=["SR", "AFb"]))
    with pytest.raises(ValueError, match="k must be"):
        group_votes(make([0] * 6, np.arange(6) * 512)).k_of_n([0] * 6, k=7)
    with pytest.raises(ValueError, match="n >= 1"):
        group_votes(make([0], [0]), n=0)


@pytest.mark.parametrize(("p", "n", "k"), [(0.9235, 6, 3), (0.3, 5, 4), (1.0, 6, 6), (0.0, 3, 1), (0.4, 2, 0)])
def test_binomial_equals_the_sum_over_outcomes(p, n, k):
    slow = sum(
        np.prod([p if right else 1 - p for right in outcome])
        for outcome in product([0, 1], repeat=n)
        if sum(outcome) >= k
    )
    assert binomial_vote(p, n, k) == pytest.approx(slow)


def test_binomial_column_of_the_paper_figure():
    assert binomial_vote(0.9235) == pytest.approx(0.99955, abs=5e-6)
    with pytest.raises(ValueError, match="p must be"):
        binomial_vote(1.2)
    with pytest.raises(ValueError, match="k must be"):
        binomial_vote(0.5, n=3, k=4)


START = np.arange(18) * 512


def test_latency_of_a_perfect_detector():
    onset = 7 * 512
    calls = onset <= START
    # Blocks end after windows 5, 11 and 17; the second holds five VA windows.
    assert detection_latency(START, calls, onset) == pytest.approx((12 * 512 - onset) / 250)
    assert detection_latency(START, calls, onset, early_exit=True) == pytest.approx(3 * 2.048)
    assert detection_latency(START, calls, onset, early_exit=True, inference_seconds=40e-6) == pytest.approx(6.14404)


def test_latency_waits_for_the_next_block_if_too_few_windows_are_left():
    onset = 10 * 512
    assert detection_latency(START, onset <= START, onset) == pytest.approx(8 * 2.048)


def test_early_exit_looks_at_the_last_six_only():
    calls = np.zeros(18, dtype=bool)
    calls[[2, 5, 9, 11]] = True
    # 2, 5 and 9 never lie within six windows; 9, 11 and 5 do not either.
    assert detection_latency(START, calls, 0, early_exit=True) is None
    calls[7] = True
    assert detection_latency(START, calls, 0, early_exit=True) == pytest.approx(8 * 2.048)


def test_declarations_before_the_onset_do_not_count():
    calls = np.zeros(18, dtype=bool)
    calls[:6] = True
    assert detection_latency(START, calls, 12 * 512) is None
    assert detection_latency(START, calls, 12 * 512, early_exit=True) is None


def test_latency_refuses_bad_windows():
    with pytest.raises(ValueError, match="overlap"):
        detection_latency([0, 256], [1, 1], 0)
    with pytest.raises(ValueError, match="alike"):
        detection_latency([0, 512], [1], 0)
    with pytest.raises(ValueError, match="k must"):
        detection_latency([0, 512], [1, 1], 0, k=0)


def test_latency_summary():
    assert latency_summary([3.0, None]) == {"median_s": 3.0, "worst_s": 3.0, "undetected": 0.5}
    nothing = latency_summary([None])
    assert nothing["undetected"] == 1
    assert np.isnan(nothing["worst_s"])
    with pytest.raises(ValueError, match="no onsets"):
        latency_summary([])
