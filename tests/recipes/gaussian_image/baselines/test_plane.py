import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.baselines.plane import Plane, Values, gaussians
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import LEAST_SIGMA

numbers = st.floats(-20, 20, width=32)


@settings(max_examples=100, deadline=None)
@given(st.tuples(numbers, numbers, numbers))
def test_conic_of_a_cholesky_factor_inverts_the_covariance(shape):
    found = gaussians(Values(torch.zeros(1, 2), torch.tensor([shape]), torch.ones(1, 3)), "cholesky").conics[0].double()
    a, b, c = max(shape[0], LEAST_SIGMA), shape[1], max(shape[2], LEAST_SIGMA)
    factor = torch.tensor([[a, 0], [b, c]], dtype=torch.float64)
    inverse = torch.tensor([[found[0], found[1]], [found[1], found[2]]])
    expected = torch.linalg.inv(factor @ factor.T)
    assert torch.allclose(inverse, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@settings(max_examples=100, deadline=None)
@given(st.tuples(numbers, numbers, numbers))
def test_every_covariance_draws(shape):
    found = gaussians(Values(torch.full((1, 2), 4.0), torch.tensor([shape]), torch.ones(1, 3)), "covariance")
    assert rasterizer("reference")(*found, 8, 8).isfinite().all()


def test_conic_of_a_covariance_inverts_it():
    shape = torch.tensor([[4.0, 1.5, 2.0]])
    conic = gaussians(Values(torch.zeros(1, 2), shape, torch.ones(1, 3)), "covariance").conics[0]
    product = torch.tensor([[4.0, 1.5], [1.5, 2.0]]) @ torch.stack([conic[:2], conic[1:]])
    assert torch.allclose(product, torch.eye(2), atol=1e-6)


@pytest.mark.parametrize("form", ["cholesky", "covariance"])
def test_a_plane_starts_with_round_gaussians_half_a_distance_wide(form):
    plane = Plane((8, 8), 16, form)
    conics = plane.gaussians(plane.values()).conics
    assert torch.allclose(conics, torch.tensor([1.0, 0.0, 1.0]).expand(16, 3))


def test_first_positions_are_a_pure_function_of_the_seed():
    first, again, other = (Plane((20, 30), 50, "cholesky", seed=seed).values().xy for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first >= 0).all()
    assert (first <= torch.tensor([30.0, 20.0])).all()


def test_loaded_values_come_back_to_the_last_bit():
    plane = Plane((8, 8), 5, "cholesky")
    values = Values(torch.rand(5, 2) * 8, torch.rand(5, 3), torch.randn(5, 3))
    plane.load(values)
    assert all(torch.equal(one, other) for one, other in zip(plane.values(), values, strict=True))
