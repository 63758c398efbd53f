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
    written = WriteVerify(tolerance, form="redraw").run(
        errors, draws, lambda: sigma * torch.randn(MANY, generator=draws)
    )
    attempts = 1 + written.cycles.double().mean()
    assert attempts.item() == pytest.approx(1 / accepted, rel=0.01)
    assert attempts.item() == pytest.approx(2.2, abs=0.05)
    assert (written.cycles == 0).double().mean().item() == pytest.approx(accepted, abs=0.003)
    assert written.error.std().item() == pytest.approx(std, rel=0.01)
    assert written.error.abs().max() <= tolerance


def test_the_default_pulses_do_what_their_documentation_says():
    draws = generator()
    errors = 0.1 * torch.randn(MANY, generator=draws)
    written = WriteVerify().run(errors, draws)
    assert 1 + written.cycles.double().mean().item() == pytest.approx(10.4, abs=0.1)
    assert written.error.std().item() == pytest.approx(0.0297, abs=0.0002)
    assert written.error.abs().max() <= 0.036
    remembered = WriteVerify(tolerance=0.06, step=0.004).run(errors, draws)
    assert 1 + remembered.cycles.double().mean().item() == pytest.approx(9.8, abs=0.1)
    assert remembered.error.std().item() == pytest.approx(0.048, abs=0.0005)


def loop_of_old(loop, error, draws):
    """The loop as it was before device-to-device spread, write noise and saturation."""
    left, cycles = error.flatten().clone(), torch.zeros(error.numel(), dtype=torch.int32)
    active = torch.arange(left.numel())
    for _ in range(loop.max_cycles):
        read = left[active]
        if loop.read_noise:
            read = read + loop.read_noise * torch.randn(read.shape, generator=draws)
        outside = read.abs() > loop.tolerance
        active, read = active[outside], read[outside]
        effect = 1.0 + loop.step_noise * torch.randn(read.shape, generator=draws) if loop.step_noise else 1.0
        left[active] -= loop.step * read.sign() * effect
        cycles[active] += 1
        if not active.numel():
            break
    return left, cycles


@pytest.mark.parametrize("step_noise", [0.0, 0.5])
@pytest.mark.parametrize("read_noise", [0.0, 0.01])
def test_what_was_drawn_before_the_new_settings_is_drawn_still(step_noise, read_noise):
    loop = WriteVerify(0.06, 0.004, step_noise, read_noise, max_cycles=40)
    errors = 0.1 * torch.randn(2000, generator=generator(3))
    left, cycles = loop_of_old(loop, errors, generator(4))
    written = loop.run(errors, generator(4))
    assert torch.equal(written.error, left)
    assert torch.equal(written.cycles, cycles)


def test_each_device_keeps_its_step():
    """Noiseless pulses of step * exp(step_d2d * z), with z drawn before anything else, until within tolerance."""
    loop = WriteVerify(tolerance=0.05, step=0.01, step_noise=0.0, step_d2d=0.6)
    errors = torch.full((3000,), 0.4)
    written = loop.run(errors, generator(5))
    steps = 0.01 * torch.exp(0.6 * torch.randn(3000, generator=generator(5)))
    assert torch.allclose(written.error, 0.4 - written.cycles * steps, atol=1e-5)
    assert (written.error <= 0.05).all()
    assert (written.error + steps > 0.05).all()
    assert written.cycles.unique().numel() > 20


def test_write_noise_is_redrawn_by_each_pulse_and_stays_in_the_residual():
    """Pulses without an effect: the value is 0.1 + N(0, 0.1) anew until it is within tolerance."""
    loop = WriteVerify(tolerance=0.05, step=1e-9, step_noise=0.0, write_noise=0.1)
    written = loop.run(torch.full((MANY,), 0.1), generator())
    accepted = cumulative(-0.5) - cumulative(-1.5)
    assert written.cycles.double().mean().item() == pytest.approx(1 / accepted, rel=0.01)
    mean = 0.1 + 0.1 * (density(1.5) - density(0.5)) / accepted
    assert written.error.mean().item() == pytest.approx(mean, abs=2e-4)
    assert written.error.abs().max() <= 0.05


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-0.75, 0.75, width=32), st.floats(-1, 1, width=32)), min_size=1, max_size=20),
    st.sampled_from([0.5, 1.0]),
    st.sampled_from([0.5, 0.125]),
)
def test_soft_bounds_equal_a_loop_over_weights(weights, saturation, step):
    targets, errors = (torch.tensor(column) for column in zip(*weights, strict=True))
    loop = WriteVerify(0.125, step, step_noise=0.0, max_cycles=20, saturation=saturation)
    written = loop.run(errors, generator(), target=targets)
    for target, error, left, cycles in zip(targets, errors, written.error, written.cycles, strict=True):
        value, pulses = target + error, 0
        while abs(value - target) > 0.125 and pulses < 20:
            direction = -1 if value > target else 1
            value = value + direction * step * max(0.0, 1 - saturation * direction * value)
            value = min(max(value, torch.tensor(-1 / saturation)), torch.tensor(1 / saturation))
            pulses += 1
        edge = min(abs(abs(found) - 0.125) for found in (left.item(), (value - target).item()))
        if edge > 1e-3:  # on the edge of the tolerance rounding decides
            assert left.item() == pytest.approx((value - target).item(), abs=1e-5)
            assert cycles == pulses


def test_soft_bounds_need_to_know_where_values_lie():
    with pytest.raises(ValueError, match="needs target="):
        WriteVerify(saturation=1.0).run(torch.ones(2), generator())
    weight = torch.linspace(-1, 1, 5)
    with pytest.raises(ValueError, match="give a variation with sigma_ref='weight'"):
        WriteVerify(saturation=1.0).settle(weight, weight, cim.Gaussian.published("neft", 0.1), generator())


def test_soft_bounds_are_at_the_largest_weight():
    """A weight of max|W| that was written too low: pulses bring it no nearer than (1 - step)^cycles."""
    weight = torch.tensor([4.0, -4.0, 0.5])
    loop = WriteVerify(0.01, 0.25, step_noise=0.0, max_cycles=3, saturation=1.0)
    written = loop.settle(weight, torch.tensor([-2.0, 2.0, 0.0]), cim.Gaussian(0.1), generator())
    assert torch.allclose(written.error, torch.tensor([-2.0, 2.0, 0.0]) * 0.75**3)
    assert written.cycles.tolist() == [3, 3, 0]


@pytest.mark.parametrize(
    ("name", "step", "step_noise", "step_d2d", "write_noise"),
    [
        ("rram-om-array", 0.0949, 0.4158, 0.7829, 1.4113 * 0.0949),
        ("rram-hfo2-array", 0.4622, 0.2174, 0.7125, 0.5841 * 0.4622),
    ],
)
def test_presets_hold_the_figures_of_their_files(name, step, step_noise, step_d2d, write_noise):
    expected = WriteVerify(0.05, step, step_noise, 0.01, step_d2d=step_d2d, write_noise=write_noise, saturation=1.0)
    assert WriteVerify.preset(name, tolerance=0.05, read_noise=0.01) == expected
    assert WriteVerify.preset(name, step=0.01).step == 0.01


@pytest.mark.parametrize("name", ["pcm-joshi2020", "fefet-xbtorch", "rram4", "nothing"])
def test_devices_without_statistics_of_pulses_are_refused(name):
    with pytest.raises(ValueError, match=f"known for rram-hfo2-array, rram-om-array; not for '{name}'"):
        WriteVerify.preset(name)


@pytest.mark.parametrize("name", ["rram-om-array", "rram-hfo2-array"])
def test_pulses_of_presets_end_within_the_range(name):
    weight, variation = torch.linspace(-1, 1, 5001), cim.Gaussian(0.1)
    written = WriteVerify.preset(name, max_cycles=50).settle(weight, torch.zeros(5001) + 0.1, variation, generator())
    noise = 6 * WriteVerify.preset(name).write_noise
    assert (weight + written.error).abs().max() <= 1 + noise
    inside = written.cycles < 50
    assert inside.double().mean() > 0.85
    assert written.error[inside].abs().max() <= 0.036


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
    errors = torch.tensor([[0.03, -0.036], [0.0, 0.01]])
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
    sure, unsure = (WriteVerify(0.06, 0.004, read_noise=noise).run(errors, draws).error.abs() for noise in (0.0, 0.02))
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
    written = WriteVerify(tolerance=0.06, step=0.004, form=form).settle(weight, first, variation, generator(1))
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
        ({"step_d2d": -0.1}, "step_d2d must be a finite number >= 0"),
        ({"write_noise": float("nan")}, "write_noise must be a finite number >= 0"),
        ({"saturation": -1.0}, "saturation must be a finite number >= 0"),
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
