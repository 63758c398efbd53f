"""Read noise: the published laws, and readings of a chip that a model computes on."""

import math

import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.chip.population import Chip, ChipPopulation
from lightning_cim.chip.scope import chip_weights, on_chip, scope_of
from lightning_cim.chip.transform import Program, Stored
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.measured import Measured
from lightning_cim.variation.read_noise import ReadNoise

HOUR = 3600.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def std_at(name, conductance, time, g_max=None):
    """Std of one device at one conductance, as the preset says."""
    device = Measured.preset(name).device
    fraction = (conductance - device.g_min) / device.span
    devices = DeviceArray(torch.tensor([1.0, fraction]), device, Encoding())
    return ReadNoise.preset(name, time).device_read_std(devices)[0, 0, 1].item()


@pytest.mark.parametrize("time", [1.0, HOUR, 30 * 86400.0])
@pytest.mark.parametrize("conductance", [0.5, 12.5, 25.0])
def test_pcm(conductance, time):
    q = min(0.0088 / max((conductance / 25.0) ** 0.65, 1e-3), 0.2)
    expected = conductance * q * math.sqrt(math.log((time + 250e-9) / (2 * 250e-9)))
    assert std_at("pcm-nandakumar2019", conductance, time) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("conductance", [1.0, 9.0])
def test_hermes_one_device(conductance):
    r = conductance / 10.35
    low = min(max(-0.0078 * math.log(r) + 0.0038, 0.0179), 0.04)
    q = low if r < 0.1591 else 0.0664 * r**3 - 0.1352 * r**2 + 0.0768 * r + 0.0088
    expected = conductance * q * math.sqrt(math.log((HOUR + 512e-9) / (2 * 512e-9)))
    assert std_at("hermes-1", conductance, HOUR) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("conductance", [9.0, 40.0, 88.2])
def test_cmo(conductance):
    expected = 0.0277316483 * math.log10(conductance) * math.sqrt(math.log((HOUR + 1e-6) / 2e-6))
    assert std_at("rram-cmo-hfox", conductance, HOUR) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("current", [10.0, 400.0, 1600.0])
def test_sonos(current):
    expected = 12.58037 * (1 - math.exp(-current / 215.36557))
    assert std_at("sonos", current, HOUR) == pytest.approx(expected, rel=1e-4)


def test_std_of_a_weight_is_that_of_its_devices():
    weight = torch.tensor([1.0, -0.5, 0.25, 0.0])
    noise = ReadNoise(0.02)
    sliced = Measured(Measured.preset("rram-milo2021").device, Encoding("offset", 4, 2)) + noise
    plain = cim.Gaussian(0.1) + noise
    for variation, unit in ((sliced, 2 * math.hypot(3 / 15, 12 / 15)), (plain, math.sqrt(2))):
        found = variation.read_std(weight, variation.draw(weight.shape, generator()))
        torch.testing.assert_close(found, torch.full((4,), 0.02 * unit))
    assert cim.Gaussian(0.1).read_std(weight, None) is None
    assert (cim.Gaussian(0.1) + cim.Gaussian(0.1)).read_std(weight, ()) is None


def test_reading_is_no_part_of_what_is_stored():
    model = nn.Linear(6, 4)
    noisy = ChipPopulation(model, cim.Gaussian(0.1) + ReadNoise(0.05))[3]
    plain = chip_weights(model, ChipPopulation(model, cim.Gaussian(0.1))[3])["weight"]
    stored = chip_weights(model, noisy)["weight"]
    torch.testing.assert_close(stored, plain, rtol=1e-5, atol=1e-7)
    with on_chip(model, noisy):
        assert (model.weight - stored).abs().mean() > 0.01 * model.weight.abs().max()
    assert noisy.variation.std == pytest.approx(0.1, rel=0.03)


def readings(model, chip, count):
    scope = scope_of(model)
    program = Program(chip)
    scope.add(program)
    scope.hold()
    found = []
    try:
        for _ in range(count):
            scope.open()
            found.append(model.weight.detach().clone())
            scope.close()
    finally:
        scope.remove(program)
    return torch.stack(found)


def test_each_opening_of_a_held_chip_is_another_reading_of_the_same_chip():
    torch.manual_seed(0)
    model = nn.Linear(20, 10)
    chip = ChipPopulation(model, cim.Gaussian(0.1) + ReadNoise(0.05))[1]
    before = model.weight.detach().clone()
    found = readings(model, chip, 400)
    assert torch.equal(model.weight, before)
    assert not torch.equal(found[0], found[1])
    stored = chip_weights(model, chip)["weight"]
    std = 0.05 * math.sqrt(2) * before.abs().max()
    assert (found.mean(0) - stored).abs().max() < 5 * std / math.sqrt(400)
    assert found.std(0).mean() == pytest.approx(float(std), rel=0.02)
    assert torch.equal(found, readings(model, chip, 400))  # a function of the chip and the number of the reading
    other = ChipPopulation(model, chip.variation)[2]
    assert not torch.equal(found[0] - stored, readings(model, other, 1)[0] - chip_weights(model, other)["weight"])


def test_pruned_weights_are_not_read():
    weight = torch.randn(5, 5, generator=generator())
    mask = torch.rand(5, 5, generator=generator(1)) > 0.5
    stored = Stored("weight", nn.Linear(5, 5), weight * mask, mask)
    program = Program(Chip(ReadNoise(0.1), 0, 0))
    program.apply(stored)
    (value,) = program.read([stored])
    assert torch.equal(value[~mask], torch.zeros(int((~mask).sum())))
    assert (value[mask] != weight[mask]).all()


def test_half_precision_and_gradients():
    model = nn.Linear(6, 4).bfloat16()
    chip = ChipPopulation(model, ReadNoise(0.1))[0]
    with on_chip(model, chip):
        assert model.weight.dtype is torch.bfloat16
        model(torch.ones(1, 6, dtype=torch.bfloat16)).sum().backward()
    assert torch.equal(model.weight.grad, torch.ones(4, 6, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ReadNoise(-0.1), "sigma must be a finite number >= 0"),
        (lambda: ReadNoise(0.1, scale=math.nan), "scale must be a finite number"),
        (lambda: ReadNoise(0.1, time=-1), "seconds > 0"),
        (lambda: ReadNoise.preset("rram-wan2022"), "it knows that of hermes-1, hermes-2, pcm-nandakumar2019, rram-cmo"),
        (lambda: readings(nn.Linear(2, 2), Chip(ReadNoise.preset("sonos"), 0, 0), 1), "measured in nA"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_scaled_null_and_at():
    assert ReadNoise(0.0).is_null
    assert ReadNoise(0.1).scaled(0.0).is_null
    assert ReadNoise(0.1).at(HOUR) == ReadNoise(0.1, time="1h")
    assert not (cim.Gaussian(0.0) + ReadNoise(0.1)).is_null
