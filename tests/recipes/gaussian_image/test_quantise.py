"""Rounding, its stand-ins in training, and bits against numerical integrals."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image import quantise
from recipes.gaussian_image.context import CodingStats


def integral(x, mean, scale, step, points=20_001):
    """-log2 of the normal density's integral over [x - step/2, x + step/2] by Simpson's rule in float64."""
    at = np.linspace(x - step / 2, x + step / 2, points)
    density = np.exp(-0.5 * ((at - mean) / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    weights = np.ones(points)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return -math.log2(max((density * weights).sum() * step / (points - 1) / 3, 1e-300))


@settings(max_examples=60, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2), st.floats(0.05, 3), st.floats(0.02, 2))
def test_bits_are_the_integral_of_the_density(x, mean, scale, step):
    got = quantise.bits(*(torch.tensor([value], dtype=torch.float64) for value in (x, mean, scale)), step).item()
    assert got == pytest.approx(min(integral(x, mean, scale, step), -math.log2(1e-6)), abs=1e-4)


def test_float32_tails_are_precise():
    x = torch.linspace(-4, 4, 81)
    exact = quantise.bits(x.double(), torch.zeros(1), torch.ones(1), 0.5)
    torch.testing.assert_close(quantise.bits(x, torch.zeros(1), torch.ones(1), 0.5).double(), exact, atol=2e-3, rtol=0)


def test_gradient_below_the_bound_passes_only_where_it_raises_the_mass():
    x = torch.tensor([50.0], requires_grad=True)
    scale = torch.tensor([1.0], requires_grad=True)
    cost = quantise.bits(x, torch.zeros(1), scale, 1.0)
    assert cost.item() == pytest.approx(-math.log2(1e-6), abs=1e-4)
    bounded = quantise._LowerBound.apply(torch.tensor([1e-9]).requires_grad_(), 1e-6)
    assert bounded.item() == pytest.approx(1e-6)
    for direction, passes in ((1.0, False), (-1.0, True)):
        mass = torch.tensor([1e-9], requires_grad=True)
        (direction * quantise._LowerBound.apply(mass, 1e-6)).sum().backward()
        assert (mass.grad.item() != 0) is passes


def test_noise_has_the_moments_of_rounding_errors_and_a_seed():
    x = torch.zeros(100_000)
    noise = quantise.noisy(x, 0.5, torch.Generator().manual_seed(3))
    assert noise.abs().max() <= 0.25
    assert noise.var().item() == pytest.approx(0.25 / 12, rel=0.02)
    assert torch.equal(noise, quantise.noisy(x, 0.5, torch.Generator().manual_seed(3)))


def test_rounding_passes_gradients_to_value_and_step():
    x, step = torch.tensor([0.8, -0.3], requires_grad=True), torch.tensor([0.5], requires_grad=True)
    got = quantise.rounded(x, step)
    torch.testing.assert_close(got.detach(), torch.tensor([1.0, -0.5]))
    got.sum().backward()
    torch.testing.assert_close(x.grad, torch.ones(2))
    torch.testing.assert_close(step.grad, torch.tensor([(2 - 1.6) + (-1 + 0.6)]))


def test_symbols_are_the_nearest_multiples_within_reach_of_the_mean():
    stats = CodingStats(np.array([[0, 256, 512]]), np.full((1, 3), 256), np.array([[0.25]]))
    x = torch.tensor([[0.3, -0.2, 1e6]])
    symbol = quantise.symbols(x, stats)
    assert symbol.tolist() == [[1, -1, 2 + 15_000]]
    assert quantise.values(symbol, stats).tolist() == [[0.25, -0.25, 0.25 * 15_002]]


def test_bits_of_symbols_are_those_of_training():
    draw = np.random.default_rng(0)
    stats = CodingStats(draw.integers(-900, 900, (30, 4)), draw.integers(50, 900, (30, 4)), np.full((30, 1), 0.5))
    symbol = quantise.symbols(torch.from_numpy(draw.normal(0, 1, (30, 4))), stats)
    mean, scale = (torch.from_numpy(part / 256 * 0.5) for part in stats[:2])
    want = quantise.bits(quantise.values(symbol, stats).double(), mean, scale, 0.5).sum().item()
    assert quantise.symbol_bits(symbol, stats) == pytest.approx(want, rel=1e-9)
