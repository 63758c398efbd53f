"""The simulated loop against closed forms and a loop over single weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_cim as cim
from lightning_cim.programming.write_verify import WriteVerify, default_residual, unit_factor
from lightning_cim.variation.levels import LevelGaussian

MANY = 400_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def cumulative(x):
    return 0.5 * math.erfc(-x / math.sqrt(2))


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def test_redrawing_has_its_closed_form():
    """Independent attempts of N(0, 0.1), accepted within 0.06: truncated normal, geometric number of attempts."""
    sigma, tolerance = 0.1, 0.06
    a = tolerance / sigma
    accepted = 2 * cumulative(a) - 1
    assert accepted == pytest.approx(0.4515, abs=1e-4)
    std = sigma * math.sqrt(1 - 2 * a * density(a) / accepted)
    assert std == pytest.approx(0.0338, abs=1e-4)
    draws = generator()
    errors = sigma * torch.randn(MANY, generator=draws)
    written = WriteVerify(form="redraw").run(errors, draws, lambda: sigma * torch.randn(MANY, generator=draws))
    attempts = 1 + written.cycles.double().mean()
    assert attempts.item() == pytest.approx(1 / accepted, rel=0.01)
    assert attempts.item() == pytest.approx(2.2, abs=0.05)
    assert (written.cycles == 0).double().mean().item() == pytest.approx(accepted, abs=0.003)
    assert written.error.std().item() == pytest.approx(std, rel=0.01)
    assert written.error.abs().max() <= tolerance


def test_the_default_pulses_do_what_their_documentation_says():
    draws = generator()
    written = WriteVerify().run(0.1 * torch.randn(MANY, generator=draws), draws)
    assert written.cycles.double().mean().item() == pytest.approx(9, abs=0.5)
    assert written.error.std().item() == pytest.approx(0.05, abs=0.003)
    assert written.error.abs().max() <= 0.06


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    st.sampled_from([0.0625, 0.03125]),
    st.sampled_from([0.25, 0.0625, 0.015625]),
    st.sampled_from([1, 3, 500]),
)
def test_noiseless_pulses_equal_a_loop_over_weights(errors, tolerance, step, max_cycles):
    loop = WriteVerify(tolerance, step, step_noise=0.0, max_cycles=max_cycles)
    written = loop.run(torch.tensor(errors), generator())
    for error, left, cycles in zip(errors, written.error.tolist(), written.cycles.tolist(), strict=True):
        value, pulses = torch.tensor(error), 0
        while abs(value) > tolerance and pulses < max_cycles:
            value = value - step if value > 0 else value + step
            pulses += 1
        assert left == value.item()
        assert cycles == pulses


def test_what_is_within_tolerance_is_left_alone():
    errors = torch.tensor([[0.05, -0.06], [0.0, 0.01]])
    written = WriteVerify().run(errors, generator())
    assert torch.equal(written.error, errors)
    assert not written.cycles.any()


def test_inputs_are_not_changed_and_draws_are_the_generators():
    errors = torch.randn(100)
    before = errors.clone()
    first = WriteVerify(read_noise=0.01).run(errors, generator(1))
    again = WriteVerify(read_noise=0.01).run(errors, generator(1))
    other = WriteVerify(read_noise=0.01).run(errors, generator(2))
    assert torch.equal(errors, before)
    assert torch.equal(first.error, again.error)
    assert torch.equal(first.cycles, again.cycles)
    assert not torch.equal(first.error, other.error)


def test_smaller_tolerance_means_smaller_residual_and_more_cycles():
    draws = generator()
    errors = 0.1 * torch.randn(20_000, generator=draws)
    runs = [WriteVerify(tolerance=tolerance).run(errors, draws) for tolerance in (0.09, 0.06, 0.03, 0.01)]
    stds = [run.error.std().item() for run in runs]
    cycles = [run.cycles.double().mean().item() for run in runs]
    assert stds == sorted(stds, reverse=True)
    assert cycles == sorted(cycles)


def test_read_noise_leaves_errors_beyond_the_tolerance():
    draws = generator()
    errors = 0.1 * torch.randn(20_000, generator=draws)
    sure, unsure = (WriteVerify(read_noise=noise).run(errors, draws).error.abs() for noise in (0.0, 0.02))
    assert (sure > 0.06).sum() == 0
    assert (unsure > 0.06).double().mean() > 0.1


@pytest.mark.parametrize(
    "variation", [cim.Gaussian(0.1), cim.Gaussian.published("neft", 0.1), cim.Gaussian.published("swim", 0.1)]
)
@pytest.mark.parametrize("form", ["pulses", "redraw"])
def test_tolerance_is_in_the_units_of_sigma(variation, form):
    weight = torch.linspace(-3, 3, 50_000)
    unit = 3 * variation.std / 0.1
    first = variation.sample(weight, generator(0))
    written = WriteVerify(form=form).settle(weight, first, variation, generator(1))
    assert written.error.abs().max().item() <= 0.06 * unit * (1 + 1e-5)
    assert written.error.abs().max().item() >= 0.0599 * unit
    assert (written.cycles == 0).double().mean().item() == pytest.approx(0.4515, abs=0.02)


def test_a_weight_of_zeros_needs_no_cycle():
    weight = torch.zeros(3, 3)
    written = WriteVerify().settle(weight, torch.zeros(3, 3), cim.Gaussian(0.1), generator())
    assert not written.error.any()
    assert not written.cycles.any()


@pytest.mark.parametrize(
    ("variation", "factor", "residual"),
    [
        (cim.Gaussian(0.2), 1.0, cim.Gaussian(0.03)),
        (cim.Gaussian.published("neft", 0.2), 0.7776, cim.Gaussian.published("neft", 0.03)),
        (cim.RightCensoredGaussian(0.2), 1.0, cim.Gaussian(0.03)),
        (cim.Gaussian.published("swim", 0.2) + cim.Gaussian(0.1), 0.5773, cim.Gaussian.published("swim", 0.03)),
        (LevelGaussian(0.2, 4.0), 1.0, cim.Gaussian(0.03)),
    ],
)
def test_the_residual_is_in_the_convention_of_the_variation(variation, factor, residual):
    assert unit_factor(variation) == pytest.approx(factor, abs=1e-4)
    assert default_residual(variation) == residual


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0}, "tolerance must be a finite number > 0, got 0"),
        ({"tolerance": float("nan")}, "tolerance must be a finite number > 0, got nan"),
        ({"step": -0.1}, "step must be a finite number > 0"),
        ({"step_noise": -1}, "step_noise must be a finite number >= 0"),
        ({"read_noise": float("inf")}, "read_noise must be a finite number >= 0"),
        ({"max_cycles": 0}, "max_cycles must be at least 1, got 0"),
        ({"form": "once"}, "form must be 'pulses' or 'redraw', got 'once'"),
    ],
)
def test_settings_without_meaning_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WriteVerify(**options)


def test_redrawing_needs_something_to_draw():
    with pytest.raises(ValueError, match="needs write="):
        WriteVerify(form="redraw").run(torch.ones(2), generator())
