"""What happens to devices after they were written, by effects small enough to be followed by hand."""

import math
from dataclasses import dataclass

import pytest
import torch

import lightning_cim as cim
from lightning_cim.variation.conductance import Device, Polynomial, linear
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.measured import Measured
from tests.variation.tiny_effects import Fade, Full, Reading

CELL = Device("cell", "uS", 2.0, 12.0, linear(0.3, 0.05), linear(0.2, -0.03))
OTHER = Device("other", "uS", 0.0, 12.0, Polynomial((0.4,)))
WEIGHT = torch.tensor([[-1.6, 1.6, 0.0, 0.4], [-0.3, 1.1, -0.01, 0.8]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sample(variation, weight, seed=0):
    return variation.sample(weight, generator(seed))


@pytest.mark.parametrize("bits", [(None, None), (4, 2)], ids=["any", "sliced"])
@pytest.mark.parametrize("scheme", ["differential", "offset"])
@pytest.mark.parametrize("mode", ["collapsed", "per_slice"])
def test_beside_effects_a_measured_part_is_as_per_slice_alone(scheme, bits, mode):
    collapsed = Measured(CELL, Encoding(scheme, *bits, mode))
    alone = Measured(CELL, Encoding(scheme, *bits, "per_slice"))
    assert (collapsed + Fade(1.0)).parts[0] == alone
    assert torch.equal(sample(collapsed + Fade(1.0), WEIGHT), sample(alone, WEIGHT))
    assert torch.equal(sample(collapsed + Full(0.0), WEIGHT), sample(alone, WEIGHT))


@pytest.mark.parametrize(
    "part", [cim.Gaussian(0.1), cim.Gaussian.published("neft", 0.1), cim.LevelGaussian.preset("FeFET6", 0.1)], ids=str
)
def test_beside_effects_other_parts_are_as_alone_but_for_rounding(part):
    """Errors are added to conductances near 1 and taken out again: float32 keeps them to 1e-7 of max|W|."""
    deviation = sample(part, WEIGHT)
    torch.testing.assert_close(sample(part + Fade(1.0), WEIGHT), deviation, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (cim.Gaussian(0.1), (1, 2, 5, 3)),
        (cim.Gaussian.published("neft", 0.1), (4, 2, 5, 3)),
        (Measured(CELL, Encoding("offset")), (1, 1, 5, 3)),
        (Measured(CELL, Encoding("offset", 6, 2)), (3, 1, 5, 3)),
        (Measured(CELL, Encoding("differential", 8, 1)), (8, 2, 5, 3)),
    ],
    ids=str,
)
def test_every_device_has_numbers_of_its_own(part, expected):
    for both, place in ((part + Full(0.1), 1), (Full(0.1) + part, 0)):
        numbers = both.draw(torch.Size((5, 3)), generator())
        assert numbers[place].shape == expected
        assert numbers[place].unique().numel() == math.prod(expected)


def test_an_effect_alone_lies_on_a_pair():
    numbers = Full(0.5).draw(WEIGHT.shape, generator(1))
    found = Full(0.5).deviation(WEIGHT, numbers)
    assert numbers[0].shape == (1, 2, 2, 4)
    for row in range(2):
        for column in range(4):
            w = WEIGHT[row, column].item() / 1.6
            plus, minus = max(w, 0.0), max(-w, 0.0)
            plus = 1.0 if numbers[0][0, 0, row, column] < 0.5 else plus
            minus = 1.0 if numbers[0][0, 1, row, column] < 0.5 else minus
            assert found[row, column].item() == pytest.approx(1.6 * (plus - minus - w), abs=1e-6)


def test_devices_fail_before_they_fade_whatever_the_order_of_the_sum():
    weight = torch.tensor([1.0, 0.25])
    for both in (Fade(0.5) + Full(1.0), Full(1.0) + Fade(0.5)):
        on_column = both + Measured(CELL, Encoding("offset"))
        numbers = on_column.draw(weight.shape, generator())
        # All devices at 12 uS, of which 6 are left: w = 2 (6 - 2) / 10 - 1.
        torch.testing.assert_close(on_column.deviation(weight, numbers), -0.2 - weight)


def test_effects_of_one_stage_act_in_the_order_of_the_sum():
    @dataclass(frozen=True)
    class Lift(Fade):
        def act(self, devices, numbers):
            devices.held = devices.held + self.keep

    column = Measured(OTHER, Encoding("offset")).scaled(0.0)
    weight = torch.tensor([1.0])
    # From 12 uS, for which w = 1, to 12 / 2 + 3 = 9 or (12 + 3) / 2 = 7.5 uS.
    assert sample(column + Fade(0.5) + Lift(3.0), weight).item() == pytest.approx(2 * 9 / 12 - 2)
    assert sample(column + Lift(3.0) + Fade(0.5), weight).item() == pytest.approx(2 * 7.5 / 12 - 2)


def test_effects_act_on_what_was_written():
    """Every conductance fades: weight and errors of writing become 0.9 times what they were."""
    for part in (cim.Gaussian(0.1), Measured(OTHER), cim.Gaussian(0.1) + cim.Gaussian(0.2)):
        written = sample(part.per_device if isinstance(part, Measured) else part, WEIGHT)
        found = WEIGHT + sample(part + Fade(0.9), WEIGHT)
        torch.testing.assert_close(found, 0.9 * (WEIGHT + written), rtol=1e-5, atol=1e-6)


def test_two_kinds_of_devices_are_refused():
    with pytest.raises(ValueError, match=r"one kind of device, but Measured\(cell .* and Measured\(other .* mean diff"):
        Measured(CELL) + Measured(OTHER) + Fade(0.9)
    with pytest.raises(ValueError, match="one kind of device"):
        Measured(CELL) + Measured(CELL, Encoding("offset")) + Fade(0.9)
    with pytest.raises(ValueError, match=r"one kind of device, but Gaussian.* and Gaussian.*"):
        Fade(0.9) + cim.Gaussian.published("neft", 0.1) + cim.Gaussian.published("swim", 0.1)
    with pytest.raises(ValueError, match="one kind of device"):
        Measured(CELL) + cim.Gaussian.published("neft", 0.1) + Fade(0.9)
    # The mode is no other device, and a plain Gaussian has none.
    Measured(CELL) + Measured(CELL).per_device + cim.Gaussian(0.1) + Fade(0.9)


def test_effects_see_the_devices_as_soon_as_they_are_known():
    @dataclass(frozen=True)
    class Picky(Full):
        def check(self, device, encoding):
            if device.unit != "uS":
                raise ValueError(f"uS needed, got {device.name} on {encoding.slices} slices")

    on_anything = cim.Gaussian(0.1) + Picky(0.1)  # a Measured may follow
    assert (on_anything + Measured(CELL)).causes[1] == Picky(0.1)
    with pytest.raises(ValueError, match=r"uS needed, got relative conductance on 4 slices"):
        Picky(0.1) + cim.Gaussian.published("neft", 0.1)


def test_readings():
    """Errors of independent readings of all devices: std^2 adds up over devices and effects."""
    column = Measured(OTHER, Encoding("offset")).scaled(0.0)
    numbers = (None, None, None, None)
    weight = torch.tensor([1.0, 0.5, -1.0])  # 12, 9 and 0 uS
    both = column + Reading(0.03) + Fade(0.5) + Reading(0.04)
    expected = 0.05 * 0.5 * torch.tensor([12.0, 9.0, 0.0]) * 2 / 12
    torch.testing.assert_close(both.read_std(weight, (torch.zeros(1, 1, 3), *numbers[1:])), expected)
    pair = Reading(0.1).read_std(torch.tensor([2.0, -1.0]), Reading(0.1).draw(torch.Size((2,)), generator()))
    torch.testing.assert_close(pair, torch.tensor([0.2, 0.1]))  # the unused device holds 0
    quiet = column + Fade(0.5)
    assert quiet.read_std(weight, quiet.draw(weight.shape, generator())) is None
    assert not both.deviation(torch.zeros(3), both.draw(weight.shape, generator())).any()  # reading is no part of it


def test_nominal_moments_of_fading_weights():
    """w -> keep (w + sigma z): by weight the std is keep sigma, and the mean (keep - 1) w averages out."""
    both = cim.Gaussian(0.1) + Fade(0.8)
    assert both.std == pytest.approx(0.08, rel=0.01)  # simulated: 133120 draws, a standard error of 0.2 %
    assert both.mean == pytest.approx(0.0, abs=0.002)
    # On a column from 0 to g_max the middle is 0: w -> keep (w + 1) - 1 loses 1 - keep whatever w is.
    column = Measured(OTHER, Encoding("offset")).scaled(0.0) + Fade(0.8)
    assert column.mean == pytest.approx(-0.2, rel=1e-4)
    assert column.std == pytest.approx(0.0, abs=1e-6)


def test_nominal_moments_of_faults():
    """Each device of a pair at 1 with probability p: variances p (1 - p) (1 - |w|)^2 and p (1 - p), means -p w."""
    p, levels = 0.2, torch.linspace(-1.0, 1.0, 65, dtype=torch.float64)
    variance = p * (1 - p) * (1.0 + float((1 - levels.abs()).square().mean()))
    for variation in (Full(p), Full(p) + cim.Gaussian(0.0)):
        assert variation.std == pytest.approx(math.sqrt(variance), rel=0.01)
        assert variation.mean == pytest.approx(0.0, abs=0.01)
    assert not Full(p).is_null
    assert Full(0.0).is_null


def test_nominal_moments_are_the_same_each_time():
    twin = cim.Gaussian(0.1) + Full(0.2)
    first = (cim.Gaussian(0.1) + Full(0.2)).std
    torch.manual_seed(1)
    assert twin.std == first


@pytest.mark.parametrize("effect", [Fade(0.9), Reading(0.1)], ids=str)
def test_an_effect_without_mean_and_spread_is_not_null(effect):
    """On a pair all weights fade, by nothing on average; a reading is no part of the deviation at all."""
    assert not effect.is_null
