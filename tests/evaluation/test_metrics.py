"""KPP as a torchmetrics class."""

import copy

import matplotlib as mpl
import numpy as np
import pytest
import torch

import lightning_cim as cim
from tests.helpers.versions import merging

mpl.use("Agg")


@pytest.mark.parametrize("k", [1, 10, 37.5])
@pytest.mark.parametrize("lower_is_better", [False, True])
def test_equals_numpys_quantile(k, lower_is_better):
    values = torch.rand(1200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    metric = cim.KPP(k, lower_is_better)
    for share in values.split(100):
        metric.update(share)
    q = 1 - k / 100 if lower_is_better else k / 100
    assert metric.compute().item() == pytest.approx(np.quantile(values.numpy(), q), rel=1e-6)
    assert metric.higher_is_better is not lower_is_better


def test_numbers_and_tensors_are_taken_alike():
    one, two = cim.KPP(50), cim.KPP(50)
    for value in (0.1, 0.5, 0.9):
        one.update(value)
    two.update(torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64))
    with pytest.warns(UserWarning, match="3 chips are few for a 50 % percentile; use at least 20"):
        assert one.compute() == two.compute()


def test_known_list_and_warning_below_the_needed_chips():
    metric = cim.KPP(1)
    metric.update(torch.arange(1000) / 999)
    assert metric.compute().item() == pytest.approx(0.01)
    few = cim.KPP(1)
    few.update(torch.rand(999))
    with pytest.warns(UserWarning, match="999 chips are few for a 1 % percentile; use at least 1000"):
        few.compute()


def test_interval_is_that_of_the_percentile():
    metric = cim.KPP(50)
    metric.update(torch.arange(1, 101).float())
    assert str(metric.interval()) == "50.5000 [40.0000, 61.0000]"


@merging
def test_states_of_two_ranks_merge():
    values = torch.rand(200)
    whole, first, second = (cim.KPP(10) for _ in range(3))
    whole.update(values)
    first.update(values[:80])
    second.update(values[80:])
    first.merge_state(second)
    assert first.compute() == whole.compute()


def test_reset_clone_and_pickled_state():
    metric = cim.KPP(10)
    metric.update(torch.rand(100))
    value = metric.compute()
    assert copy.deepcopy(metric).compute() == value
    metric.reset()
    metric.update(torch.ones(100))
    assert metric.compute() == 1.0


def test_plot_marks_the_percentile():
    metric = cim.KPP(10)
    metric.update(torch.rand(200))
    figure, axes = metric.plot()
    marked = [line.get_xdata()[0] for line in axes.lines]
    assert marked[0] == pytest.approx(metric.compute().item(), rel=1e-6)
    assert sum(bar.get_height() for bar in axes.containers[0]) == 200
    mpl.pyplot.close(figure)


@pytest.mark.parametrize("k", [0, 100, -1])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"KPP: k is a percentile in per cent, 0 < k < 100, got {k}"):
        cim.KPP(k)
