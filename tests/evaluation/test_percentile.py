"""The percentile and its interval against scipy's binomial distribution and against simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from lightning_cim.evaluation.percentile import chips_needed, percentile


def slow_ranks(n, p, confidence):
    """Tightest ranks whose tails are each at most (1 - confidence) / 2, by trying all of them."""
    tail = (1 - confidence) / 2
    # P(true percentile < a_(l)) = P(count <= l - 1) and P(true percentile >= a_(u)) = P(count >= u).
    low = max((rank for rank in range(1, n + 1) if binom.cdf(rank - 1, n, p) <= tail), default=None)
    high = min((rank for rank in range(1, n + 1) if binom.sf(rank - 1, n, p) <= tail), default=None)
    return low, high


@pytest.mark.parametrize("n", [1, 2, 10, 100, 368, 369, 1000])
@pytest.mark.parametrize("k", [0.1, 1, 10, 50, 99])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
def test_ranks_equal_the_binomial_definition(n, k, confidence):
    found = percentile(np.arange(1, n + 1), k, confidence=confidence)
    low, high = slow_ranks(n, k / 100, confidence)
    assert found.low == (-math.inf if low is None else low)
    assert found.high == (math.inf if high is None else high)


@pytest.mark.parametrize("k", [1, 10, 50])
@pytest.mark.parametrize("lower_is_better", [False, True])
def test_interval_covers_the_true_percentile_as_often_as_it_says(k, lower_is_better):
    rng = np.random.default_rng(0)
    true = norm.ppf(1 - k / 100) if lower_is_better else norm.ppf(k / 100)
    trials = 2000
    covered = 0
    for _ in range(trials):
        found = percentile(rng.normal(size=500), k, lower_is_better)
        covered += found.low <= true <= found.high
    # At least 95 %, less four standard errors; the ranks are discrete, so it may be more.
    assert covered / trials > 0.95 - 4 * math.sqrt(0.05 * 0.95 / trials)
    assert covered / trials < 0.995


@given(
    values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60),
    k=st.floats(0.1, 99.9),
    confidence=st.floats(0.5, 0.999),
)
@settings(max_examples=100, deadline=None)
def test_value_is_numpys_and_intervals_are_nested(values, k, confidence):
    found = percentile(values, k, confidence=confidence)
    assert found.value == pytest.approx(float(np.quantile(values, k / 100)), abs=1e-9)
    assert found.low <= found.high
    assert (found.chips, found.k, found.confidence) == (len(values), k, confidence)
    wider = percentile(values, k, confidence=(1 + confidence) / 2)
    assert wider.low <= found.low
    assert wider.high >= found.high


@given(values=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=60), k=st.floats(0.1, 99.9))
@settings(max_examples=50, deadline=None)
def test_lower_is_better_mirrors(values, k):
    down, up = percentile(values, k, lower_is_better=True), percentile([-v for v in values], k)
    assert (down.value, down.low, down.high) == (-up.value, -up.high, -up.low)
    assert down.value == pytest.approx(float(np.quantile(values, 1 - k / 100)), abs=1e-6)


def test_order_of_chips_does_not_matter():
    values = np.random.default_rng(0).normal(size=200)
    assert percentile(values, 5) == percentile(np.sort(values)[::-1], 5)


def test_too_few_chips_leave_the_interval_open():
    assert str(percentile([0.5, 0.6], 1)) == "0.5010 [unbounded, 0.5000]"
    assert str(percentile([0.5, 0.6], 99)) == "0.5990 [0.6000, unbounded]"


@pytest.mark.parametrize(("k", "chips"), [(1, 1000), (0.1, 10_000), (10, 100), (0.01, 100_000), (30, 34)])
def test_chips_needed(k, chips):
    assert chips_needed(k) == chips


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {"k": 1}, "at least one value and no NaN"),
        ([1.0, math.nan], {"k": 1}, "at least one value and no NaN"),
        ([1.0], {"k": 0}, "0 < k < 100, got 0"),
        ([1.0], {"k": 100}, "0 < k < 100, got 100"),
        ([1.0], {"k": 1, "confidence": 1.0}, "confidence must lie between 0 and 1, got 1.0"),
    ],
)
def test_bad_arguments_are_refused(values, options, message):
    with pytest.raises(ValueError, match=message):
        percentile(values, **options)
