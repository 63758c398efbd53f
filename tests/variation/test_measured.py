"""Measured variations: what every variation promises, files of one's own, and plots."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim import ChipPopulation, Gaussian, on_chip
from lightning_cim.variation.conductance import Device, Polynomial, Table, linear
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.measured import Measured

PCM = Measured.preset("pcm-nandakumar2019")
SHIFTED = Device("shifted", "uS", 1.0, 21.0, Polynomial((0.2, 1.0, -0.7), 21.0), linear(0.1, -0.02))
VARIATIONS = [
    PCM,
    Measured(SHIFTED),
    Measured(SHIFTED, Encoding("offset")),
    Measured(SHIFTED, Encoding(weight_bits=8, device_bits=2)),
    Measured(SHIFTED, Encoding(weight_bits=4, device_bits=2, mode="per_slice")),
    Measured(SHIFTED, Encoding("offset", mode="per_slice")),
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-8, 8), size=st.integers(1, 30))
@settings(max_examples=20, deadline=None)
def test_scaling_the_tensor_scales_the_deviation(variation, seed, power, size):
    weight = torch.randn(size, generator=generator(seed))
    base = variation.sample(weight, generator(seed))
    assert torch.equal(variation.sample(weight * 2.0**power, generator(seed)), base * 2.0**power)
    torch.testing.assert_close(variation.scaled(3.0).sample(weight, generator(seed)), 3.0 * base)
    torch.testing.assert_close(variation.scaled(3.0).variance(weight), 9.0 * variation.variance(weight))


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_gradient_is_straight_through(variation):
    weight = torch.randn(4, 5, generator=generator(), requires_grad=True)
    numbers = variation.draw(weight.shape, generator(1))
    kept = numbers.clone()
    deviated = variation.deviate(weight, numbers)
    deviated.sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 5))
    torch.testing.assert_close(deviated.detach(), weight.detach() + variation.deviation(weight, numbers))
    assert torch.equal(numbers, kept)
    assert not variation.variance(weight).requires_grad


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_layouts_and_degenerate_weights(variation, dtype):
    weight = torch.randn(3, 4, 2, 2, generator=generator()).to(dtype)
    sample = variation.sample(weight, generator(2))
    assert sample.dtype == torch.float32
    assert not sample.requires_grad
    last = weight.to(memory_format=torch.channels_last)
    torch.testing.assert_close(variation.sample(last, generator(2)), sample)
    assert variation.sample(torch.empty(0, 3, dtype=dtype), generator()).shape == (0, 3)
    assert not variation.sample(torch.zeros(5, dtype=dtype), generator()).any()
    assert not variation.variance(torch.zeros(5, dtype=dtype)).any()
    assert variation.sample(torch.tensor(-2.0, dtype=dtype), generator()).shape == ()
    before = weight.clone()
    variation.deviate(weight.float(), variation.draw(weight.shape, generator()))
    variation.variance(weight)
    assert torch.equal(weight, before)


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_a_broken_weight_stays_visible(variation):
    weight = torch.tensor([1.0, math.nan, -0.5])
    numbers = variation.draw(weight.shape, generator())
    assert variation.deviate(weight, numbers).isnan()[1]


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_nominal_moments_are_those_of_evenly_spread_weights(variation):
    weight = torch.linspace(-2.0, 2.0, 100_001)
    assert variation.std == pytest.approx(variation.variance(weight).double().mean().sqrt().item() / 2, rel=1e-3)
    assert variation.mean == pytest.approx(variation.mean_deviation(weight).double().mean().item() / 2, abs=1e-5)
    assert variation.scaled(0.5).std == pytest.approx(variation.std / 2)
    assert not variation.is_null


def test_a_pair_has_no_mean_and_an_offset_has_one():
    assert Measured(SHIFTED).mean == pytest.approx(0.0, abs=1e-9)
    # The mean error 0.1 - 0.02 g over 1 .. 21 uS is -0.12 uS; 20 uS are 2 max|W|.
    assert Measured(SHIFTED, Encoding("offset")).mean == pytest.approx(-0.12 * 2 / 20, rel=1e-3)


def test_null_variations():
    assert PCM.scaled(0.0).is_null
    silent = Device("silent", "uS", 0.0, 1.0, Polynomial((0.0,)))
    assert Measured(silent).is_null
    drifting = Device("drifting", "uS", 0.0, 1.0, Polynomial((0.0,)), linear(0.0, -0.1))
    assert not Measured(drifting).is_null
    weight = torch.tensor([1.0, -0.5])
    torch.testing.assert_close(Measured(drifting).sample(weight, generator()), -0.1 * weight)


def test_small_weights_of_a_pair_see_the_unused_device_too():
    """sqrt(var(g) + var(g_min)) / (g_max - g_min), which no weight escapes.

    Half of the devices at 0 uS are cut: max(z, 0) has the variance 1/2 - 1/(2 pi).
    """
    zero, full = PCM.variance(torch.tensor([0.0, 1.0])).sqrt().tolist()
    unused = 0.26348 * math.sqrt(0.5 - 0.5 / math.pi)
    assert zero == pytest.approx(math.sqrt(2) * unused / 25, rel=1e-4)
    assert full == pytest.approx(math.hypot(1.05538, unused) / 25, rel=1e-4)
    # Where zero weights lie at 5 uS nothing is cut, and sigma is what was published.
    low = Measured.preset("pcm-nandakumar2019", g_min=5.0)
    zero, full = low.variance(torch.tensor([0.0, 1.0])).sqrt().tolist()
    at_5 = 0.26348 + 1.9650 * 0.2 - 1.1731 * 0.04
    assert zero == pytest.approx(math.sqrt(2) * at_5 / 20, rel=1e-4)
    assert full == pytest.approx(math.hypot(1.05538, at_5) / 20, rel=1e-4)


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_devices_of_a_weight(variation):
    """Whether each has a number of its own makes no other devices."""
    assert variation.devices == variation.per_device.devices == variation.scaled(0.5).devices
    assert variation.devices[0] == variation.device
    assert variation.per_device.per_device == variation.per_device
    assert variation.per_device.encoding.mode == "per_slice"
    weight = torch.linspace(-1.0, 1.0, 11)
    torch.testing.assert_close(variation.per_device.variance(weight), variation.variance(weight))
    torch.testing.assert_close(variation.per_device.mean_deviation(weight), variation.mean_deviation(weight))


def test_no_conductance_is_written_below_zero():
    pcm = PCM.per_device
    weight = torch.linspace(-1.0, 1.0, 1000)
    devices = DeviceArray(weight, *pcm.devices)
    numbers = pcm.draw(weight.shape, generator(4))
    pcm.write(devices, weight, numbers)
    assert (devices.held >= 0).all()
    # The unused half of all devices aims at 0, and half of these would end below.
    assert (devices.held == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
    uncut = devices.held > 0
    written = devices.targets + pcm.device.sigma(devices.targets) * numbers
    torch.testing.assert_close(devices.held[uncut], written[uncut])
    torch.testing.assert_close(devices.deviation(), pcm.deviation(weight, numbers))


@pytest.mark.parametrize("variation", [Measured(SHIFTED), Measured(SHIFTED).per_device], ids=str)
def test_written_to_other_devices_only_the_weight_has_the_error(variation):
    weight = torch.tensor([1.0, -0.5, 0.2])
    devices = DeviceArray(weight, PCM.device, Encoding("offset", 8, 2))
    numbers = variation.draw(weight.shape, generator(4))
    variation.write(devices, weight, numbers)
    torch.testing.assert_close(devices.deviation(), variation.deviation(weight, numbers), rtol=1e-4, atol=1e-6)
    assert (devices.held != devices.targets).sum() == 3


def test_composes_and_lies_on_a_chip():
    both = PCM + Gaussian(0.05)
    weight = torch.tensor([1.0, -0.2])
    torch.testing.assert_close(both.variance(weight), PCM.variance(weight) + 0.05**2)
    model = torch.nn.Linear(6, 4)
    inputs, outputs = torch.ones(1, 6), []
    for chip in (0, 0, 1):
        with on_chip(model, ChipPopulation(model, PCM)[chip]):
            outputs.append(model(inputs))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize("variation", VARIATIONS, ids=str)
def test_is_a_plain_frozen_value(variation):
    twin = pickle.loads(pickle.dumps(variation))
    assert twin == copy.deepcopy(variation) == variation
    assert hash(twin) == hash(variation)
    assert str(twin) == str(variation)
    assert twin.scaled(0.5) != variation
    assert str(twin.scaled(0.5)) != str(variation)


def test_printed_form_tells_variations_apart():
    assert str(PCM).startswith("Measured(pcm-nandakumar2019 0..25 uS, differential, #")
    changed = Device("pcm-nandakumar2019", "uS", 0.0, 25.0, Polynomial((0.26349, 1.9650, -1.1731), 25.0))
    assert str(Measured(changed)) != str(PCM)
    assert "8 bits on 2-bit devices" in str(Measured(SHIFTED, Encoding(weight_bits=8, device_bits=2)))


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf])
def test_meaningless_scales_are_refused(scale):
    with pytest.raises(ValueError, match="scale must be a finite number >= 0"):
        Measured(SHIFTED, scale=scale)


def test_inference_mode_leaves_nothing_behind():
    device = Device("fresh", "uS", 0.0, 3.0, Polynomial((0.2, 0.1)))
    with torch.inference_mode():
        Measured(device).sample(torch.ones(3), generator())
    weight = torch.ones(3, requires_grad=True)
    Measured(device).deviate(weight, Measured(device).draw(weight.shape, generator())).sum().backward()
    assert torch.equal(weight.grad, torch.ones(3))


LEVELS = [2.0, 8.0, 14.0, 20.0, 26.0]
TRUE = Device("true", "uS", 2.0, 26.0, Polynomial((0.3, 1.6, -0.9), 26.0), linear(0.2, -0.03))


@pytest.fixture
def readings(tmp_path):
    """A thousand readings of each level of a device that is known."""
    source, lines = generator(5), ["# measured at 0.2 V", "target_uS, reading_uS"]
    for level in LEVELS:
        z = torch.randn(1000, generator=source, dtype=torch.float64)
        found = level + TRUE.shift_at(level) + TRUE.sigma_at(level) * z
        lines += [f"{level},{value!r}" for value in found.tolist()]
    path = tmp_path / "cells.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("options", [{}, {"fit": "polynomial", "degree": 2}], ids=["table", "polynomial"])
def test_a_known_device_is_found_again(readings, options):
    found = Measured.from_csv(readings, **options)
    assert (found.device.g_min, found.device.g_max, found.device.unit) == (2.0, 26.0, "uS")
    for level in LEVELS:  # standard errors: 2.2 % of a std, and sigma / 32 of a mean
        assert found.device.sigma_at(level) == pytest.approx(TRUE.sigma_at(level), rel=0.08)
        assert found.device.shift_at(level) == pytest.approx(TRUE.shift_at(level), abs=0.12)
    weight = torch.linspace(-1, 1, 101)
    expected = Measured(TRUE).variance(weight).mean().sqrt().item()
    assert found.variance(weight).mean().sqrt().item() == pytest.approx(expected, rel=0.05)
    assert [level.readings for level in found.device.measured] == [1000] * 5
    assert max(map(abs, found.device.residuals)) < (1e-12 if not options else 0.05)


def test_options_of_from_csv(readings):
    spread = Measured.from_csv(readings, mean_shift=False, name="mine", encoding=Encoding("offset"), g_min=8, g_max=20)
    assert spread.device.shift is None
    assert spread.encoding == Encoding("offset")
    assert (spread.device.name, spread.device.g_min, spread.device.g_max) == ("mine", 8.0, 20.0)
    for bad in ({"fit": "spline"}, {"degree": 2}, {"fit": "polynomial"}, {"fit": "polynomial", "degree": -1}):
        with pytest.raises(ValueError, match="fit"):
            Measured.from_csv(readings, **bad)
    with pytest.raises(ValueError, match=r"cells.csv:2: a polynomial of degree 5 needs 6 levels, got 5"):
        Measured.from_csv(readings, fit="polynomial", degree=5)
    with pytest.raises(ValueError, match=r"g_max is 27 uS, but the error was measured between 2 and 26 uS only"):
        Measured.from_csv(readings, g_max=27.0)


def test_where_a_file_lies_makes_no_difference(readings, tmp_path):
    other = tmp_path / "elsewhere" / "cells.csv"
    other.parent.mkdir()
    other.write_bytes(readings.read_bytes())
    assert str(Measured.from_csv(other)) == str(Measured.from_csv(readings))


def test_levels_with_their_moments(tmp_path):
    path = tmp_path / "levels.csv"
    path.write_text("level_nS,mean_nS,std_nS\n30,31,2\n10,9.5,1\n", encoding="utf-8")
    device = Measured.from_csv(path).device
    assert device.sigma == Table((10.0, 30.0), (1.0, 2.0))
    assert device.shift == Table((10.0, 30.0), (-0.5, 1.0))
    assert device.unit == "nS"


def test_from_toml(tmp_path):
    path = tmp_path / "cell.toml"
    path.write_text(
        'name = "cell"\n[conductance]\nunit = "uS"\nmin = 1\nmax = 50\n'
        '[programming]\nsigma = { model = "linear", intercept = 0.5, slope = 0.02 }\n',
        encoding="utf-8",
    )
    found = Measured.from_toml(path, encoding=Encoding("offset"))
    assert found == Measured(Device("cell", "uS", 1.0, 50.0, linear(0.5, 0.02)), Encoding("offset"))
    with pytest.raises(ValueError, match=r"cell: unknown option 'day'; it has no options"):
        Measured.from_toml(path, day=3)


def test_plots(readings):
    pytest.importorskip("matplotlib").use("agg")
    found = Measured.from_csv(readings)
    _, ax = found.plot()
    x, y = ax.lines[0].get_data()
    assert y[0] == pytest.approx(found.device.sigma_at(x[0]))
    assert ax.get_xlabel() == "target conductance / uS"
    assert len(ax.lines) == 3  # std, mean error, measured levels
    _, same = found.plot_residuals(ax=found.plot()[1])
    assert same.get_ylabel() == "measured std - fitted sigma / uS"
    assert Measured.preset("sonos").plot()[1].get_xlabel() == "target current / nA"
    with pytest.raises(ValueError, match="no residuals to plot"):
        PCM.plot_residuals()
