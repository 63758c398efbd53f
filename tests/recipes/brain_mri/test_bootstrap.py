import math

import numpy as np
import pytest

from recipes.brain_mri.bootstrap import interval, paired_bootstrap


def test_mean_and_interval_of_a_known_law():
    """Of n normal values the interval is about mean +- 1.96 s / sqrt(n)."""
    values = np.random.default_rng(0).normal(3.0, 1.0, 200)
    found = interval(values, draws=4000)
    half = 1.96 * values.std() / math.sqrt(200)
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_against_drawing_one_sample_after_the_other():
    values = np.random.default_rng(1).random(12)
    random = np.random.default_rng(2)
    means = [values[random.integers(12, size=12)].mean() for _ in range(4000)]
    found = interval(values, draws=4000)
    assert [found.low, found.high] == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.02)


def test_pairs_cancel_what_volumes_share():
    hard = np.random.default_rng(0).normal(0, 5, 20)
    found = paired_bootstrap(hard + 0.1, hard)
    assert found.difference == pytest.approx(0.1)
    assert found.low == pytest.approx(0.1)
    assert found.is_clear
    assert not paired_bootstrap(hard, hard).is_clear


def test_seeds_are_drawn_too():
    """Volumes all alike, seeds not: the interval must have the seeds' spread."""
    seeds = np.array([[0.1], [0.2], [0.6]]) * np.ones((3, 10))
    found = interval(seeds)
    assert found.mean == pytest.approx(0.3)
    assert found.low < 0.15
    assert found.high > 0.5
    assert interval(seeds.mean(0)).high == pytest.approx(0.3)


def test_nan_is_left_out():
    values = np.array([0.2, np.nan, 0.4, 0.9])
    assert interval(values).mean == pytest.approx(0.5)
    assert paired_bootstrap(values, np.array([0.1, 0.3, np.nan, 0.5])).difference == pytest.approx(0.25)
    assert all(math.isnan(number) for number in interval([np.nan]))
    assert all(math.isnan(number) for number in interval([]))


def test_same_seed_same_interval():
    values = np.random.default_rng(0).random(10)
    assert interval(values, seed=3) == interval(values, seed=3)
    assert interval(values, seed=3) != interval(values, seed=4)


def test_bad_shapes():
    with pytest.raises(ValueError, match="want pairs"):
        paired_bootstrap([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match=r"got shape \(1, 1, 1\)"):
        interval([[[1]]])
