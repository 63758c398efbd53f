"""Features against loops, rules against exhaustive search, Newton against scipy's minimiser."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import kurtosis

from recipes.arrhythmia.baselines import FEATURES, baseline_decisions, features, fit_logistic, fit_rule
from recipes.arrhythmia.windows import Windows


def slow_features(x):
    mean, sd = np.mean(x), np.std(x)
    crossings = sum(1 for a, b in pairwise(x) if a - mean <= 2 * sd < b - mean)
    steps = [abs(b - a) for a, b in pairwise(x)]
    duty = sum(abs(v) > 0.3 * max(abs(x)) for v in x) / len(x)
    return [crossings, np.sqrt(np.mean(x**2)), kurtosis(x, fisher=False), np.mean(steps) / max(steps), duty]


def test_features_equal_a_slow_loop():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((7, 200)) ** 3
    np.testing.assert_allclose(features(x), [slow_features(row) for row in x])


def test_only_rms_depends_on_the_gain():
    x = np.random.default_rng(1).standard_normal((4, 100))
    a, b = features(x), features(3 * x)
    keep = [i for i, name in enumerate(FEATURES) if name != "rms"]
    np.testing.assert_allclose(a[:, keep], b[:, keep])
    np.testing.assert_allclose(3 * a[:, 1], b[:, 1])


def test_constant_windows_have_defined_features():
    np.testing.assert_array_equal(
        features(np.full((2, 10), 0.1)), [[0, np.sqrt(np.mean(np.full(10, 0.1) ** 2)), 0, 0, 0]] * 2
    )


def test_bad_windows_are_refused():
    with pytest.raises(ValueError, match="shape"):
        features(np.zeros(10))
    bad = np.zeros((3, 10))
    bad[1, 4] = np.nan
    with pytest.raises(ValueError, match="window 1"):
        features(bad)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=25))
@settings(max_examples=80, deadline=None)
def test_rule_is_the_best_of_all(pairs):
    v, y = np.array([a for a, _ in pairs], dtype=float), np.array([b for _, b in pairs])
    rule = fit_rule(v, y)
    best = max(np.mean((d * v > d * t) == y) for d in (1, -1) for t in np.arange(-1.5, 8))
    assert np.mean(rule(v) == y) == pytest.approx(best)


def test_rule_refuses_other_shapes():
    with pytest.raises(ValueError, match="alike"):
        fit_rule([1.0, 2.0], [1])


def problem(seed=0, n=300):
    rng = np.random.default_rng(seed)
    v = rng.standard_normal((n, 5)) * [1, 10, 0.1, 3, 5] + [0, 5, -1, 2, 100]
    y = (rng.random(n) < 1 / (1 + np.exp(-(v[:, 0] + 0.2 * v[:, 1] - 1)))).astype(int)
    return v, y


@pytest.mark.parametrize("l2", [0.01, 1.0, 30.0])
def test_logistic_equals_scipy(l2):
    v, y = problem()
    model = fit_logistic(v, y, l2=l2)
    z = (v - v.mean(0)) / v.std(0)
    sign = 2 * y - 1

    def objective(b):
        return np.sum(np.log1p(np.exp(-sign * (z @ b[:5] + b[5])))) + l2 / 2 * np.sum(b[:5] ** 2)

    reference = minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose([*model.weight, model.bias], reference, atol=1e-4)
    np.testing.assert_allclose(
        model.probability(v[:9]), 1 / (1 + np.exp(-(z[:9] @ reference[:5] + reference[5]))), atol=1e-4
    )


def test_logistic_on_separable_classes_and_a_constant_feature():
    v = np.column_stack([np.r_[np.zeros(20), np.ones(20)] * 1e3, np.full(40, 7.0)])
    y = np.repeat([0, 1], 20)
    model = fit_logistic(v, y, l2=1e-3)
    assert ((model.probability(v) > 0.5) == y).all()
    assert model.weight[1] == pytest.approx(0)
    assert np.isfinite(model.probability(v * 1e6)).all()


def test_logistic_refuses_what_it_cannot_fit():
    v, y = problem()
    with pytest.raises(ValueError, match="both classes"):
        fit_logistic(v, np.zeros(len(v)))
    with pytest.raises(ValueError, match="l2"):
        fit_logistic(v, y, l2=0)
    with pytest.raises(ValueError, match="features must be"):
        fit_logistic(v, y[:-1])
    with pytest.raises(RuntimeError, match="1 Newton"):
        fit_logistic(v, y, iterations=1)


def windows(seed, n=80):
    """Non-VA: one spike a window; VA: a sine."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    x = 0.05 * rng.standard_normal((n, 128))
    x[:, 40] += 2 * (y == 0)
    x += (y == 1)[:, None] * np.sin(np.arange(128) / 4)
    names = np.array(["P"] * n)
    return Windows(x.astype(np.float32), y, names, names, np.arange(n), np.zeros(n, dtype=np.int64))


def test_baselines_learn_a_separable_task_and_majority_does_not():
    train, test = windows(0), windows(1)
    decisions = baseline_decisions(train, test)
    assert set(decisions) == {"majority", "logistic", *FEATURES}
    accuracy = {name: np.mean(d == test.y) for name, d in decisions.items()}
    assert accuracy["logistic"] > 0.97
    assert accuracy["kurtosis"] > 0.97
    assert accuracy["majority"] == max(train.y.mean() > 0.5, 0) * test.y.mean() + (train.y.mean() <= 0.5) * (
        1 - test.y.mean()
    )


def test_baselines_are_fitted_on_training_windows_only():
    train, test = windows(0), windows(1)
    flipped = Windows(test.x, 1 - test.y, test.patient, test.rhythm, test.strip, test.start)
    a, b = baseline_decisions(train, test), baseline_decisions(train, flipped)
    assert all((a[name] == b[name]).all() for name in a)
