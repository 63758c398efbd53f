"""Curves against scalar formulas, and what a device refuses."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Level, Polynomial, SaturatingExponential, Table, linear

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
