"""Curves against scalar formulas, and what a device refuses."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Level, Polynomial, SaturatingExponential, Table, linear
from tests.variation.quadrature import cut_moments

CURVES = [
    (Polynomial((0.3, 2.0, -1.2), 25.0), lambda g: 0.3 + 2.0 * (g / 25) - 1.2 * (g / 25) ** 2),
    (Polynomial((0.7,)), lambda g: 0.7),
    (linear(4.78, -0.009), lambda g: 4.78 - 0.009 * g),
    (SaturatingExponential(20.0, 7.0), lambda g: 20 * (1 - math.exp(-g / 7))),
    (Table((0.0, 10.0, 40.0), (1.0, 3.0, 0.0)), lambda g: 1 + g / 5 if g < 10 else 3 - (min(g, 40) - 10) / 10),
]


@pytest.mark.parametrize(("curve", "formula"), CURVES)
@given(g=st.floats(0, 60))
@settings(max_examples=30, deadline=None)
def test_curves_are_their_formulas(curve, formula, g):
    assert curve.at(g) == pytest.approx(formula(g), rel=1e-12, abs=1e-12)
    single = curve(torch.full((2, 3), g))
    assert single.shape == (2, 3)
    torch.testing.assert_close(single, torch.full((2, 3), formula(g)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("curve", "formula"), CURVES)
@given(ratio=st.floats(0.1, 10), g=st.floats(0, 60))
@settings(max_examples=30, deadline=None)
def test_rescaling_stretches_both_axes(curve, formula, ratio, g):
    assert curve.rescaled(ratio).at(ratio * g) == pytest.approx(ratio * formula(g), rel=1e-9, abs=1e-9)


def test_curves_do_not_change_their_argument():
    for curve, _ in CURVES:
        g = torch.linspace(0.0, 40.0, 7)
        curve(g)
        assert torch.equal(g, torch.linspace(0.0, 40.0, 7))


def test_saturating_exponential_is_exact_near_zero():
    assert SaturatingExponential(2.0, 100.0).at(1e-9) == pytest.approx(2e-11, rel=1e-9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Polynomial(()), "one coefficient or more"),
        (lambda: Polynomial((1.0, math.nan)), "coefficients must be finite"),
        (lambda: Polynomial((1.0,), 0.0), "reference must be a conductance > 0"),
        (lambda: SaturatingExponential(1.0, -1.0), "decay must be a conductance > 0"),
        (lambda: SaturatingExponential(math.inf, 1.0), "amplitude must be finite"),
        (lambda: Table((1.0,), (1.0,)), "two or more levels"),
        (lambda: Table((1.0, 2.0), (1.0,)), "2 levels and 1 values"),
        (lambda: Table((1.0, 1.0), (1.0, 2.0)), "levels of a table must increase, got 1.0 after 1.0"),
        (lambda: Table((1.0, 2.0), (1.0, math.inf)), "values must be finite"),
    ],
)
def test_meaningless_curves_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def device(**changes):
    return Device(**{"name": "cell", "unit": "uS", "g_min": 2.0, "g_max": 20.0, "sigma": linear(0.5, 0.02), **changes})


def test_errors_outside_the_measured_range_are_refused():
    cell = device(shift=linear(0.0, -0.01))
    assert cell.sigma_at(20.0) == pytest.approx(0.9)
    assert cell.shift_at(10.0) == pytest.approx(-0.1)
    assert device().shift_at(10.0) == 0.0
    for g in (1.9, 20.1, math.nan):
        with pytest.raises(ValueError, match=r"cell: the conductance is .* measured between 2 and 20 uS only"):
            cell.sigma_at(g)
        with pytest.raises(ValueError, match="only"):
            cell.shift_at(g)


def test_range_of_use():
    cell = device(valid=(0.0, 25.0))
    assert cell.between(g_max=25.0).g_max == 25.0
    assert cell.between(on_off=10).g_min == 2.0
    assert cell.between(g_max=10.0, on_off=10).g_min == 1.0
    assert cell.between(g_max=10.0).sigma_at(8.0) == cell.sigma_at(8.0)
    with pytest.raises(ValueError, match=r"g_max is 26 uS, but the error was measured between 0 and 25 uS only"):
        cell.between(g_max=26.0)
    with pytest.raises(ValueError, match=r"g_min is -1 uS"):
        cell.between(g_min=-1.0)
    with pytest.raises(ValueError, match="give g_min or on_off, not both"):
        cell.between(g_min=1.0, on_off=10)
    with pytest.raises(ValueError, match="on_off is g_max / g_min and must be > 1, got 1"):
        cell.between(on_off=1)
    with pytest.raises(ValueError, match="g_max=2 must be larger than g_min=2 uS"):
        cell.between(g_max=2.0)


def test_a_rescaled_device_has_the_same_relative_error():
    cell = device(shift=Table((2.0, 20.0), (0.1, -0.3)), measured=(Level(10.0, 10.2, 0.8, 5),))
    half = cell.rescaled(10.0)
    assert (half.g_min, half.g_max, half.valid) == (1.0, 10.0, (1.0, 10.0))
    for g in (2.0, 7.0, 20.0):
        assert half.sigma_at(g / 2) / half.g_max == pytest.approx(cell.sigma_at(g) / cell.g_max)
        assert half.shift_at(g / 2) / half.g_max == pytest.approx(cell.shift_at(g) / cell.g_max)
    assert half.residuals[0] == pytest.approx(cell.residuals[0] / 2)
    assert cell.residuals[0] == pytest.approx(0.8 - 0.7)
    for g_max in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="g_max must be a conductance > 0 uS"):
            cell.rescaled(g_max)


def test_impossible_devices_are_refused():
    with pytest.raises(ValueError, match=r"sigma is -0.1 uS at 20 uS; a standard deviation cannot be negative"):
        device(sigma=linear(0.1, -0.01))
    with pytest.raises(ValueError, match="g_max must be finite"):
        device(g_max=math.inf)
    with pytest.raises(ValueError, match=r"g_max is 20 uS, but .* between 2 and 19 uS"):
        device(valid=(2.0, 19.0))


def test_devices_are_values():
    assert device() == device()
    assert hash(device()) == hash(device())
    assert device() != device(unit="nS")
    assert eval(repr(device())) == device()


def moments_at(cell, *targets):
    mean, spread = cell.write_moments(torch.tensor(targets, dtype=torch.float64))
    return mean.tolist(), spread.tolist()


@given(
    target=st.floats(0.0, 20.0),
    level=st.floats(0.01, 6.0),
    slope=st.floats(0.0, 0.3),
    shift=st.none() | st.tuples(st.floats(-8.0, 8.0), st.floats(-0.3, 0.3)),
)
@settings(max_examples=60, deadline=None)
def test_moments_of_cut_conductances_against_quadrature(target, level, slope, shift):
    cell = device(g_min=0.0, sigma=linear(level, slope), shift=None if shift is None else linear(*shift))
    sigma = level + slope * target
    expected, std = cut_moments(target + (0.0 if shift is None else shift[0] + shift[1] * target), sigma)
    (mean,), (spread,) = moments_at(cell, target)
    assert mean + target == pytest.approx(expected, abs=1e-6 * sigma)
    assert spread == pytest.approx(std, rel=1e-5, abs=1e-5 * sigma)


def test_half_of_the_devices_at_zero_are_cut():
    """The closed form of the half normal that is left: its mean is 1 / sqrt(2 pi), its variance 1/2 - 1/(2 pi)."""
    mean, spread = moments_at(device(g_min=0.0, sigma=Polynomial((0.4,))), 0.0)
    assert mean == pytest.approx([0.4 / math.sqrt(2 * math.pi)], rel=1e-12)
    assert spread == pytest.approx([0.4 * math.sqrt(0.5 - 0.5 / math.pi)], rel=1e-12)


def test_moments_against_simulated_writes():
    """Within 5 standard errors: 400000 writes tell a std to 0.11 %."""
    cell = device(g_min=0.0, sigma=linear(1.5, 0.1), shift=linear(-0.6, 0.02))
    targets = torch.tensor([0.0, 0.5, 2.0, 9.0], dtype=torch.float64)
    writes = 400_000
    z = torch.randn(writes, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    held = (targets - 0.6 + 0.02 * targets + (1.5 + 0.1 * targets) * z).clamp(min=0.0)
    mean, spread = cell.write_moments(targets)
    assert ((held.mean(0) - targets - mean).abs() < 5 * spread / math.sqrt(writes)).all()
    torch.testing.assert_close(held.std(0), spread, rtol=0.0055, atol=0)


def test_far_above_zero_nothing_is_cut():
    cell = device(g_min=1e4, g_max=2e4, valid=(0.0, 2e4), sigma=Polynomial((1e-3,)), shift=linear(0.0, 1e-8))
    mean, spread = moments_at(cell, 1e4, 2e4)
    assert spread == [1e-3, 1e-3]  # and not a difference of squares near 1e8
    assert mean == pytest.approx([1e-4, 2e-4], rel=1e-6)


@given(ratio=st.floats(7.9, 8.1))
@settings(max_examples=30, deadline=None)
def test_moments_are_smooth_where_the_cut_is_left_out(ratio):
    mean, spread = moments_at(device(g_min=0.0, sigma=Polynomial((2.0,))), 2.0 * ratio)
    assert mean == pytest.approx([0.0], abs=1e-12)
    assert spread == pytest.approx([2.0], rel=1e-12)


def test_exact_devices_are_cut_too():
    cell = device(g_min=0.0, sigma=Polynomial((0.0,)), shift=linear(-3.0, 0.0))
    assert moments_at(cell, 0.0, 2.0, 10.0) == ([0.0, -2.0, -3.0], [0.0, 0.0, 0.0])
    assert moments_at(device(g_min=0.0, sigma=Polynomial((0.0,))), 0.0, 2.0) == ([0.0, 0.0], [0.0, 0.0])


def test_a_shift_far_below_zero_leaves_nothing():
    cell = device(g_min=0.0, sigma=Polynomial((0.5,)), shift=linear(-40.0, 0.0))
    (mean,), (spread,) = moments_at(cell, 10.0)
    assert mean == pytest.approx(-10.0, abs=1e-12)
    assert spread == pytest.approx(0.0, abs=1e-7)


def test_moments_keep_shape_and_targets():
    targets = torch.linspace(2.0, 20.0, 12, dtype=torch.float64).view(3, 1, 4)
    before = targets.clone()
    mean, spread = device(shift=linear(0.1, -0.02)).write_moments(targets)
    assert mean.shape == spread.shape == (3, 1, 4)
    assert torch.equal(targets, before)
    torch.testing.assert_close(mean[2, 0, 3], torch.tensor(-0.3, dtype=torch.float64))


def test_a_normalised_range_that_begins_below_zero_is_not_cut():
    """-1 .. 1 is no conductance; a range that only is used from 0 on, of a device that was measured below, neither."""
    for cell in (device(g_min=-1.0, g_max=1.0), device(g_min=0.0, g_max=1.0, valid=(-1.0, 1.0))):
        cell = replace(cell, unit="normalised", sigma=Polynomial((0.4,)), shift=linear(0.1, 0.0))
        assert cell.floor == -math.inf
        mean, spread = moments_at(cell, -1.0, 0.0, 1.0)
        assert mean == pytest.approx([0.1] * 3)
        assert spread == pytest.approx([0.4] * 3)
    assert device().floor == device(valid=(0.0, 20.0)).floor == 0.0
