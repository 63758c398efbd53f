"""The uniform variation: its box, its moments, and the interface of every variation."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from lightning_cim.variation.uniform import Uniform

DRAWS = 1_000_000


def sample(variation, weight, seed=0):
    return variation.sample(weight, torch.Generator().manual_seed(seed))


def test_is_uniform_in_the_box():
    found = sample(Uniform(0.06), torch.full((DRAWS,), -2.0)).double()
    assert found.min() >= -0.12
    assert found.max() <= 0.12
    assert kstest(found[:20_000].numpy(), "uniform", args=(-0.12, 0.24)).pvalue > 1e-3


def test_moments():
    variation = Uniform(0.3)
    found = sample(variation, torch.ones(DRAWS)).double()
    assert variation.mean == 0.0
    assert variation.std == pytest.approx(math.sqrt(0.6**2 / 12), rel=1e-12)
    assert found.mean().item() == pytest.approx(0.0, abs=5 * variation.std / math.sqrt(DRAWS))
    assert found.std().item() == pytest.approx(variation.std, abs=5 * variation.std / math.sqrt(DRAWS))
    weight = torch.tensor([1.0, -4.0])
    assert variation.variance(weight).item() == pytest.approx((0.3 * 4) ** 2 / 3, rel=1e-6)


def test_deviate_adds_the_deviation_and_keeps_the_weights_gradient():
    variation, weight = Uniform(0.2), torch.randn(3, 5, requires_grad=True)
    numbers = variation.draw(weight.shape, torch.Generator().manual_seed(1))
    found = variation.deviate(weight, numbers)
    assert torch.allclose(found, weight + variation.deviation(weight, numbers), rtol=0, atol=1e-6)
    found.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))
    assert not variation.deviation(weight, numbers).requires_grad


@given(bound=st.floats(1e-4, 2.0), power=st.integers(-8, 8), seed=st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_stays_in_the_box_and_scales_with_the_weights(bound, power, seed):
    weight = torch.randn(40, generator=torch.Generator().manual_seed(seed))
    found = sample(Uniform(bound), weight, seed)
    assert found.abs().max() <= bound * weight.abs().max() * (1 + 1e-6)
    assert torch.equal(sample(Uniform(bound), weight * 2.0**power, seed), found * 2.0**power)


def test_scaled_null_sum_and_text():
    assert Uniform(0.1).scaled(0.5) == Uniform(0.05)
    assert Uniform(0.0).is_null
    assert not Uniform(0.1).is_null
    assert (Uniform(0.3) + Uniform(0.4)).std == pytest.approx(0.5 / math.sqrt(3))
    assert str(Uniform(0.03)) == "Uniform(bound=0.03)"
    assert torch.equal(sample(Uniform(0.0), torch.randn(4)), torch.zeros(4))


@pytest.mark.parametrize("bound", [-0.1, math.inf, math.nan])
def test_bad_bound_is_refused(bound):
    with pytest.raises(ValueError, match="Uniform: bound must be a finite number >= 0"):
        Uniform(bound)
