"""Convergence probability against counting and against scipy's interval."""

import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from lightning_cim.evaluation.convergence import ConvergenceProbability
from tests.helpers.versions import merging

mpl.use("Agg")


def filled(values, **options):
    metric = ConvergenceProbability(**{"clean_accuracy": 0.9, **options})
    metric.update(torch.as_tensor(values))
    return metric


@pytest.mark.parametrize("fraction", [0.2, 0.5, 1.0])
def test_counts_runs_above_the_threshold(fraction):
    values = np.random.default_rng(0).uniform(size=200)
    metric = filled(values, clean_accuracy=0.8, fraction=fraction)
    assert metric.threshold == pytest.approx(0.8 * fraction)
    assert metric.compute().item() == pytest.approx(sum(value > 0.8 * fraction for value in values) / 200)


def test_the_threshold_itself_and_a_diverged_run_have_not_converged():
    metric = ConvergenceProbability(0.9)
    for value in (0.45, math.nan, 0.4500001, 0.9):
        metric.update(value)
    with pytest.warns(UserWarning, match="4 runs say little; use at least 10 seeds"):
        assert metric.compute() == 0.5


def test_ten_runs_do_not_warn(recwarn):
    assert filled([0.8] * 10).compute() == 1.0
    assert not recwarn.list


@pytest.mark.parametrize(("converged", "runs"), [(0, 10), (10, 10), (3, 10), (17, 40), (1, 1)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_interval_is_wilsons(converged, runs, confidence):
    metric = filled([0.9] * converged + [0.1] * (runs - converged))
    expected = binomtest(converged, runs).proportion_ci(confidence, method="wilson")
    assert metric.interval(confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


@merging
def test_states_of_two_ranks_merge():
    first, second = filled([0.9] * 6), filled([0.1] * 6)
    first.merge_state(second)
    assert first.compute() == 0.5


def test_plot_shows_every_run_and_the_threshold():
    figure, axes = filled([0.8, 0.1, 0.7]).plot()
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0.8, 0.1, 0.7])
    assert axes.lines[1].get_ydata()[0] == pytest.approx(0.45)
    assert axes.get_title().startswith("0.67 converged")
    mpl.pyplot.close(figure)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clean_accuracy": 0.0}, "clean_accuracy must be greater than 0, got 0.0"),
        ({"clean_accuracy": math.nan}, "clean_accuracy must be greater than 0, got nan"),
        ({"clean_accuracy": 0.9, "fraction": 0.0}, r"fraction must lie in \(0, 1\], got 0.0"),
        ({"clean_accuracy": 0.9, "fraction": 1.1}, r"fraction must lie in \(0, 1\], got 1.1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvergenceProbability(**options)


def test_interval_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="no runs yet"):
        ConvergenceProbability(0.9).interval()
    with pytest.raises(ValueError, match=r"confidence must lie between 0 and 1, got 1\.0"):
        filled([0.5]).interval(1.0)
