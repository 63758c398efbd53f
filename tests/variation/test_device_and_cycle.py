"""D2D and C2C: a sum at one write, and what stays at the next."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim import Chip, Gaussian, Measured, RightCensoredGaussian
from lightning_cim.programming.write_verify import convention, unit_factor
from lightning_cim.variation.composed import Composed
from lightning_cim.variation.conductance import Device, Polynomial, linear
from lightning_cim.variation.device_and_cycle import DeviceAndCycle
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.faults import StuckAt
from lightning_cim.variation.levels import LevelGaussian

SHIFTED = Device("shifted", "uS", 2.0, 22.0, Polynomial((0.2, 1.0, -0.7), 22.0), linear(0.1, -0.02))
CYCLES = Device("shifted", "uS", 2.0, 22.0, Polynomial((0.2, 1.0, -0.7), 22.0), linear(0.1, -0.02))
SLICED = Encoding(weight_bits=4, device_bits=2)
PAIRS = [
    (Gaussian(0.3), Gaussian(0.1)),
    (RightCensoredGaussian(0.3, 1.0), LevelGaussian.preset("FeFET6", 0.1)),
    (Measured(SHIFTED, SLICED), Measured(SHIFTED, SLICED).scaled(0.5)),
    (Measured(SHIFTED), Gaussian(0.1)),
]
pairs = pytest.mark.parametrize(("d2d", "c2c"), PAIRS, ids=lambda variation: str(variation)[:20])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pairs
def test_the_first_write_is_the_plain_sum(d2d, c2c):
    weight = torch.randn(6, 5, generator=generator(1))
    both = DeviceAndCycle(d2d, c2c)
    assert torch.equal(both.sample(weight, generator(2)), (d2d + c2c).sample(weight, generator(2)))
    numbers = both.draw(weight.shape, generator(2))
    by_hand = d2d.deviation(weight, numbers[0]) + c2c.deviation(weight, numbers[1])
    torch.testing.assert_close(both.deviate(weight, numbers), weight + by_hand)


@pairs
def test_another_write_keeps_the_device_and_draws_the_cycle(d2d, c2c):
    weight = torch.randn(6, 5, generator=generator(1))
    both = DeviceAndCycle(d2d, c2c)
    first = both.draw(weight.shape, generator(2))
    kept = copy.deepcopy(first)
    second = both.redraw(weight.shape, first, generator(3))
    assert torch.equal(second[0], kept[0])
    assert torch.equal(second[1], c2c.draw(weight.shape, generator(3)))
    assert torch.equal(first[1], kept[1])
    change = both.deviation(weight, second) - both.deviation(weight, first)
    torch.testing.assert_close(change, c2c.deviation(weight, second[1]) - c2c.deviation(weight, first[1]))


@given(d2d=st.floats(0.05, 0.4), c2c=st.floats(0.05, 0.4))
@settings(max_examples=10, deadline=None)
def test_variance_between_and_within_devices(d2d, c2c):
    """Over many writes of many devices: sigma_d2d^2 + sigma_c2c^2 / n between the devices, sigma_c2c^2 within one."""
    weight, chip = torch.ones(20_000), Chip(DeviceAndCycle(Gaussian(d2d), Gaussian(c2c)), 0, 0)
    writes = []
    for _ in range(4):
        writes.append(chip.deviation("w", weight))
        chip = chip.rewritten()
    found = torch.stack(writes).double()
    assert found.var(0).mean().sqrt().item() == pytest.approx(c2c, rel=0.02)
    assert found.mean(0).std().item() == pytest.approx(math.hypot(d2d, c2c / 2), rel=0.03)


@pairs
def test_moments_and_scaling(d2d, c2c):
    weight = torch.randn(200, generator=generator(1))
    both, plain = DeviceAndCycle(d2d, c2c), d2d + c2c
    assert both.std == pytest.approx(plain.std)
    assert both.mean == pytest.approx(plain.mean)
    torch.testing.assert_close(both.variance(weight).expand(200), plain.variance(weight).expand(200))
    assert both.scaled(0.5) == DeviceAndCycle(d2d.scaled(0.5), c2c.scaled(0.5))
    torch.testing.assert_close(
        both.scaled(0.5).sample(weight, generator(2)), 0.5 * both.sample(weight, generator(2)), rtol=1e-4, atol=1e-6
    )
    assert not both.is_null
    assert both.scaled(0.0).is_null
    assert both.at(60.0) == both


def test_time_reaches_both_parts():
    wan = Measured.preset("rram-wan2022")
    aged = DeviceAndCycle(wan, Gaussian(0.1)).at(86400.0)
    assert aged == DeviceAndCycle(wan.at(86400.0), Gaussian(0.1))
    assert aged.std > DeviceAndCycle(wan, Gaussian(0.1)).std


def test_simulated_moments():
    both = DeviceAndCycle(RightCensoredGaussian(0.3, 1.0), Gaussian(0.1))
    sample = both.sample(torch.full((200_000,), -2.0), generator()).double() / 2.0
    assert sample.std().item() == pytest.approx(both.std, rel=0.01)
    assert sample.mean().item() == pytest.approx(both.mean, abs=0.003)


@pytest.mark.parametrize("paper", ["neft", "swim"])
def test_the_convention_of_sigma_is_that_of_its_parts(paper):
    sliced = Gaussian.published(paper, 0.1)
    expected = convention(sliced)
    for both in (DeviceAndCycle(sliced, sliced.scaled(0.5)), DeviceAndCycle(Measured(SHIFTED), Gaussian(0.1))):
        assert convention(both) == convention(both.d2d + both.c2c)
    assert convention(DeviceAndCycle(sliced, sliced)) == convention(DeviceAndCycle(sliced, Gaussian(0.1))) == expected
    assert convention(DeviceAndCycle(Gaussian(0.1), sliced)) == convention(Gaussian(0.1))
    assert unit_factor(DeviceAndCycle(sliced, sliced)) == unit_factor(sliced)
    # Where neither has a sigma, a later part of a sum may have one.
    assert convention(DeviceAndCycle(Measured(SHIFTED), Measured(SHIFTED)) + Gaussian(0.1)) == convention(Gaussian(0.1))


def test_every_device_errs_and_fails():
    """Beside faults, both parts act on each device; those that are stuck have neither."""
    both = DeviceAndCycle(Measured(SHIFTED, SLICED), Measured(SHIFTED, SLICED).scaled(0.5))
    variation = both + StuckAt(low=0.5, high=0.3)
    weight = torch.randn(6, 5, generator=generator(1))
    own, uniform = variation.draw(weight.shape, generator(2))
    assert [numbers.shape for numbers in own] == [(2, 2, 6, 5)] * 2
    plain = Measured(SHIFTED, SLICED) + Measured(SHIFTED, SLICED).scaled(0.5) + StuckAt(low=0.5, high=0.3)
    torch.testing.assert_close(variation.deviation(weight, (own, uniform)), plain.deviation(weight, (*own, uniform)))
    again = variation.redraw(weight.shape, (own, uniform), generator(3))
    assert torch.equal(again[1], uniform)
    assert torch.equal(again[0][0], own[0])
    assert not torch.equal(again[0][1], own[1])
    stuck = (uniform < 0.5) | (uniform >= 0.7)
    hopeless = stuck.all(0).all(0)
    assert 0 < hopeless.sum() < 30
    change = variation.deviation(weight, again) - variation.deviation(weight, (own, uniform))
    assert torch.equal(change == 0, hopeless)
    assert variation.written == Composed((both.per_device,))


def test_devices_of_another_kind_are_refused():
    with pytest.raises(ValueError, match=r"a weight lies on one kind of device, but d2d=Measured.* mean different"):
        DeviceAndCycle(Measured(SHIFTED), Measured(SHIFTED, Encoding("offset")))
    assert DeviceAndCycle(Measured(SHIFTED), Measured(CYCLES)).devices == Measured(SHIFTED).devices
    assert DeviceAndCycle(Gaussian(0.1), Measured(SHIFTED)).devices == Measured(SHIFTED).devices
    assert DeviceAndCycle(Gaussian(0.1), Gaussian(0.1)).devices is None


@pytest.mark.parametrize(
    ("d2d", "c2c", "message"),
    [
        (0.1, Gaussian(0.1), r"d2d must be a Variation such as Gaussian\(sigma=0.1\), got 0.1"),
        (Gaussian(0.1), None, "c2c must be a Variation"),
        (Gaussian(0.1), StuckAt(0.1), "c2c must be one error of writing, got StuckAt"),
        (
            Gaussian(0.1) + Gaussian(0.2),
            Gaussian(0.1),
            "d2d must be one error of writing, got Gaussian.*add other",
        ),
    ],
)
def test_other_parts_are_refused(d2d, c2c, message):
    with pytest.raises(ValueError, match=message):
        DeviceAndCycle(d2d, c2c)


def test_is_a_plain_frozen_value():
    both = DeviceAndCycle(Gaussian(0.3), Gaussian(0.1))
    assert pickle.loads(pickle.dumps(both)) == copy.deepcopy(both) == both
    assert hash(copy.deepcopy(both)) == hash(both)
    assert str(both) == "DeviceAndCycle(d2d=Gaussian(sigma=0.3), c2c=Gaussian(sigma=0.1))"
    assert eval(str(both)) == both
    assert (both + Gaussian(0.2)).parts == (both, Gaussian(0.2))
