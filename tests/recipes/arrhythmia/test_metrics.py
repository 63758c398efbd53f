"""Metrics against slow counting loops, torchmetrics and the contest's edge rules."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.classification import (
    binary_accuracy,
    binary_fbeta_score,
    binary_recall,
    binary_specificity,
)

from recipes.arrhythmia import metrics

labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


@given(labels)
@settings(max_examples=60, deadline=None)
def test_confusion_counts_like_a_loop(pairs):
    y, decision = (list(column) for column in zip(*pairs, strict=True))
    c = metrics.confusion(y, np.array(decision, dtype=bool))
    assert (c.tp, c.fp, c.tn, c.fn) == tuple(pairs.count(p) for p in ((1, 1), (0, 1), (0, 0), (1, 0)))
    assert c.total == len(pairs)


def test_rates_match_torchmetrics_where_both_classes_are_called():
    rng = np.random.default_rng(0)
    y, decision = rng.integers(0, 2, 200), rng.integers(0, 2, 200)
    c = metrics.confusion(y, decision)
    t, p = torch.tensor(y), torch.tensor(decision)
    assert c.acc == pytest.approx(binary_accuracy(p, t).item())
    assert c.sen == pytest.approx(binary_recall(p, t).item())
    assert c.spe == pytest.approx(binary_specificity(p, t).item())
    assert c.f1 == pytest.approx(binary_fbeta_score(p, t, beta=1.0).item())
    assert c.f2 == pytest.approx(binary_fbeta_score(p, t, beta=2.0).item())
    assert c.bac == pytest.approx((c.sen + c.spe) / 2)
    assert c.missed_va == pytest.approx(1 - c.sen)
    assert c.ppv == pytest.approx(np.mean(y[decision == 1]))
    assert c.npv == pytest.approx(np.mean(y[decision == 0] == 0))


@pytest.mark.parametrize(
    ("y", "decision", "expected"),
    [
        ([0, 0], [0, 0], {"ppv": 1, "sen": 1, "f2": 1, "npv": 1, "spe": 1, "missed_va": 0}),
        ([0, 0], [0, 1], {"ppv": 1, "sen": 1, "f2": 1, "spe": 0.5}),
        ([1, 0], [0, 0], {"ppv": 0, "sen": 0, "f1": 0, "f2": 0, "missed_va": 1}),
        ([1, 1], [1, 1], {"npv": 1, "spe": 1, "ppv": 1, "bac": 1}),
        ([1, 0], [1, 1], {"npv": 0, "spe": 0, "ppv": 0.5}),
    ],
)
def test_edge_rules_of_the_contest(y, decision, expected):
    got = metrics.confusion(y, decision).as_dict()
    assert {name: got[name] for name in expected} == expected


def test_per_patient_per_rhythm_and_g():
    y = [1, 1, 0, 0, 0, 1]
    decision = [1, 0, 0, 1, 0, 1]
    patient = ["a", "a", "a", "b", "b", "c"]
    rhythm = ["VT", "VFb", "SR", "SVT", "SR", "VT"]
    assert metrics.rhythm_accuracy(y, decision, rhythm) == {"SR": 1.0, "SVT": 0.0, "VFb": 0.0, "VT": 1.0}
    f2 = metrics.patient_f2(y, decision, patient)
    assert f2 == {"a": pytest.approx(5 * 1 * 0.5 / (4 + 0.5)), "b": 1.0, "c": 1.0}
    assert metrics.generalisation(y, decision, patient) == pytest.approx(2 / 3)


def test_false_alarms_per_hour():
    assert metrics.false_alarms_per_hour([0] * 9 + [1], [1] + [0] * 8 + [1], 12.288) == pytest.approx(
        1 / (9 * 12.288 / 3600)
    )
    assert np.isnan(metrics.false_alarms_per_hour([1], [1], 2.0))
    with pytest.raises(ValueError, match="positive"):
        metrics.false_alarms_per_hour([0], [0], 0)


def test_bootstrap_resamples_patients_not_windows():
    patient = np.repeat([f"p{i}" for i in range(10)], 50)
    y = np.tile([0, 1], 250)
    decision = np.where(np.isin(patient, ["p0", "p1"]), 1 - y, y)
    low, high = metrics.bootstrap_interval(y, decision, patient, lambda c: c.acc, draws=4000, seed=3)
    # Number of bad patients in ten draws is binomial(10, .2): quantiles 0 and 5.
    assert (low, high) == (pytest.approx(0.5), pytest.approx(1.0))
    assert (low, high) == metrics.bootstrap_interval(y, decision, patient, lambda c: c.acc, draws=4000, seed=3)


def test_bootstrap_matches_a_slow_resampling():
    rng = np.random.default_rng(1)
    patient = rng.choice(list("abcdefgh"), 120)
    y, decision = rng.integers(0, 2, 120), rng.integers(0, 2, 120)
    slow = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(patient == p) for p in rng.choice(list("abcdefgh"), 8)])
        slow.append(metrics.confusion(y[rows], decision[rows]).f2)
    fast = metrics.bootstrap_interval(y, decision, patient, lambda c: c.f2, draws=3000)
    assert fast == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.02)


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 10)), min_size=2, max_size=30))
@settings(max_examples=80, deadline=None)
def test_threshold_is_the_best_of_a_grid(pairs):
    y, p = np.array([a for a, _ in pairs]), np.array([b for _, b in pairs]) / 10
    if y.min() == y.max():
        with pytest.raises(ValueError, match="VA and non-VA"):
            metrics.choose_threshold(y, p)
        return
    if p.max() == 0:
        with pytest.raises(ValueError, match="every probability is 0"):
            metrics.choose_threshold(y, p)
        return
    t = metrics.choose_threshold(y, p)
    grid = [metrics.confusion(y, p >= g).f2 for g in np.linspace(0.01, 0.995, 201) if g <= p.max()]
    assert 0 < t < 1
    assert metrics.confusion(y, p >= t).f2 == pytest.approx(max(grid))


def test_threshold_tie_goes_nearest_to_one_half():
    y, p = [1, 0, 0, 0, 0, 0, 0, 1, 1], np.arange(1, 10) / 10
    f2 = [metrics.confusion(y, p >= t).f2 for t in (0.05, 0.75)]
    assert f2[0] == pytest.approx(f2[1])
    assert metrics.choose_threshold(y, p) == pytest.approx(0.75)


def test_summary_agrees_with_its_parts():
    rng = np.random.default_rng(2)
    y, decision, patient = rng.integers(0, 2, 60), rng.integers(0, 2, 60), rng.choice(list("abc"), 60)
    got = metrics.summary(y, decision, patient, seconds=2.048, draws=200)
    assert got["acc"] == np.mean(y == decision)
    assert got["g"] == metrics.generalisation(y, decision, patient)
    assert got["f2_low"] <= got["f2"] <= got["f2_high"]
    assert got["false_alarms_per_hour"] == metrics.false_alarms_per_hour(y, decision, 2.048)


@pytest.mark.parametrize(
    ("y", "decision", "message"),
    [([], [], "non-empty"), ([0, 1], [0], "one length"), ([0, 2], [0, 1], "only 0 and 1"), ([0], [0.7], "threshold")],
)
def test_bad_input_is_refused(y, decision, message):
    with pytest.raises(ValueError, match=message):
        metrics.confusion(y, decision)
    with pytest.raises(ValueError, match="outside"):
        metrics.choose_threshold([0, 1], [0.5, float("nan")])
