"""Level-dependent Gaussians against the published table and against a loop over devices and levels."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim import ChipPopulation, Gaussian, on_chip
from lightning_cim.variation.levels import LEVEL_RATIOS, LevelGaussian

FULL = {"sigma_ref": "full_scale", "weight_bits": 8, "device_bits": 2}
LSB = {"sigma_ref": "lsb", "weight_bits": 8, "device_bits": 2}
CONVENTIONS = [
    {},
    FULL,
    LSB,
    {**FULL, "level_mode": "per_slice"},
    {**LSB, "level_mode": "per_slice"},
    {**FULL, "level_mode": "per_slice", "device_bits": 4},
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def empirical_std(variation, weight, draws=20_000):
    """Std of every element over many draws: copies of the tensor, which have its largest magnitude."""
    return variation.sample(weight.expand(draws, *weight.shape), generator()).double().std(0)


@pytest.mark.parametrize(
    ("ratio", "outer", "middle"),
    [
        (LEVEL_RATIOS["RRAM1"], 0.0100, 0.0100),
        (LEVEL_RATIOS["FeFET2"], 0.0067, 0.0135),
        (3.0, 0.0049, 0.0146),  # FeFET3 of the table, which is no preset
        (LEVEL_RATIOS["RRAM4"], 0.0038, 0.0151),
        (LEVEL_RATIOS["FeFET6"], 0.0026, 0.0155),
    ],
)
def test_published_table_of_level_stds(ratio, outer, middle):
    stds = LevelGaussian(0.01, ratio).level_stds
    assert [round(std, 4) for std in stds] == [outer, middle, middle, outer]


@pytest.mark.parametrize("name", LEVEL_RATIOS)
def test_presets_are_ratios(name):
    assert LevelGaussian.preset(name, 0.1, **FULL) == LevelGaussian(0.1, LEVEL_RATIOS[name], **FULL)
    sliced = LevelGaussian.preset(name, 0.1, level_mode="per_slice", **LSB)
    assert sliced == LevelGaussian(0.1, LEVEL_RATIOS[name], level_mode="per_slice", **LSB)


@pytest.mark.parametrize("ratio", LEVEL_RATIOS.values())
def test_mean_square_is_sigma_where_forty_percent_are_in_the_middle(ratio):
    weight = torch.tensor([0.0, -0.1, 0.5, -0.6, 1.0])
    variation = LevelGaussian(0.1, ratio, **FULL)
    assert variation.variance(weight).mean().sqrt().item() == pytest.approx(variation.std, rel=1e-6)
    assert variation.std == Gaussian(0.1, **FULL).std
    assert variation.mean == 0.0


def test_networks_with_small_weights_see_less_than_nominal():
    weight = torch.randn(10_000, generator=generator()) ** 3
    variation = LevelGaussian.preset("FeFET6", 0.1)
    share = ((weight.abs() > 0.25 * weight.abs().max()) & (weight.abs() < 0.75 * weight.abs().max())).double().mean()
    expected = math.sqrt((36 * share + (1 - share)) / (0.4 * 36 + 0.6)) * variation.std
    seen = (variation.variance(weight).mean().sqrt() / weight.abs().max()).item()
    assert seen == pytest.approx(expected, rel=1e-5)
    assert seen < 0.5 * variation.std


@pytest.mark.parametrize("name", LEVEL_RATIOS)
def test_ratio_of_middle_to_outer_weights(name):
    weight = torch.cat([torch.full((200_000,), value) for value in (0.1, -0.5, 0.9, -2.0, 0.6)])
    weight[0] = 2.0
    stds = [part.double().std().item() for part in LevelGaussian.preset(name, 0.1).sample(weight, generator()).chunk(5)]
    for middle in (stds[2], stds[4]):  # 0.9 / 2 and 0.6 / 2; 0.5 / 2 lies on the edge, which is outer
        for outer in (stds[0], stds[1], stds[3]):
            assert middle / outer == pytest.approx(LEVEL_RATIOS[name], rel=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_edges_of_the_band_are_outer(sign):
    weight = sign * torch.tensor([1.0, 0.25, 0.75, 0.2500001, 0.7499999])
    outer = LevelGaussian(0.1, 4.0).variance(weight).sqrt()
    assert outer.tolist() == pytest.approx([0.1 * s / math.sqrt(7.0) for s in (1, 1, 1, 4, 4)], rel=1e-5)


@pytest.mark.parametrize("options", CONVENTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_ratio_one_is_the_gaussian_bit_for_bit(options, dtype):
    plain = Gaussian(0.1, **{key: value for key, value in options.items() if key != "level_mode"})
    variation = LevelGaussian.preset("RRAM1", 0.1, **options)
    weight = torch.randn(37, 29, generator=generator(), dtype=dtype)
    numbers = plain.draw(weight.shape, generator(3))
    assert torch.equal(variation.sample(weight, generator(3)), plain.sample(weight, generator(3)))
    assert torch.equal(variation.deviate(weight, numbers), plain.deviate(weight, numbers))
    assert variation.std == plain.std
    model = torch.nn.Linear(5, 3)
    outputs = []
    for same in (variation, plain):
        with on_chip(model, ChipPopulation(model, same)[4]):
            outputs.append(model(torch.ones(1, 5)))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("options", CONVENTIONS)
def test_variance_is_that_of_many_draws(options):
    weight = torch.tensor([[-1.5, 0.1, 0.3], [0.7, -0.9, 1.2]])
    variation = LevelGaussian(0.1, 4.0, **options)
    torch.testing.assert_close(
        variation.variance(weight).sqrt().double(), empirical_std(variation, weight), rtol=0.03, atol=0
    )
    composed = variation + Gaussian(0.05)
    torch.testing.assert_close(composed.variance(weight), variation.variance(weight) + (1.5 * 0.05) ** 2)


def simulate_slices(value, largest, sigma, ratio, sigma_ref, weight_bits, device_bits, draws):
    """Errors of one weight, device by device: write each slice, add the error of its level, read the weight back."""
    quantum = 2**weight_bits - 1 if sigma_ref == "full_scale" else 2**weight_bits
    integer = round(abs(value) / largest * (2**weight_bits - 1))
    digits = []
    for _ in range(weight_bits // device_bits):
        integer, digit = divmod(integer, 2**device_bits)
        digits.append(digit)
    low = sigma / math.sqrt(0.4 * ratio**2 + 0.6)
    source = generator(7)
    error = torch.zeros(draws, dtype=torch.float64)
    for j, digit in enumerate(digits):
        level_std = ratio * low if 0.25 <= digit / 2**device_bits < 0.75 else low
        if sigma_ref == "full_scale":
            level_std *= 2**device_bits - 1  # relative to the device's range instead of its least significant bit
        error += 2 ** (j * device_bits) * level_std * torch.randn(draws, generator=source, dtype=torch.float64)
    return math.copysign(1, value) * error * largest / quantum


@pytest.mark.parametrize(
    ("sigma_ref", "weight_bits", "device_bits"),
    [("full_scale", 8, 2), ("lsb", 8, 2), ("full_scale", 6, 3), ("full_scale", 4, 4), ("lsb", 2, 2)],
)
@pytest.mark.parametrize("ratio", [1.0, 2.0, 6.0])
def test_per_slice_agrees_with_a_simulation_of_every_device(sigma_ref, weight_bits, device_bits, ratio):
    bits = {"sigma_ref": sigma_ref, "weight_bits": weight_bits, "device_bits": device_bits}
    weight = torch.tensor([2.0, 0.0, -0.01, 0.4, 0.7, -1.1, 1.33, -1.9])
    found = LevelGaussian(0.1, ratio, level_mode="per_slice", **bits).variance(weight).sqrt()
    slow = [simulate_slices(value, 2.0, 0.1, ratio, draws=20_000, **bits).std().item() for value in weight.tolist()]
    assert found.tolist() == pytest.approx(slow, rel=0.03)


def test_per_slice_of_a_two_bit_weight_is_the_table():
    variation = LevelGaussian(0.01, 4.0, level_mode="per_slice", sigma_ref="full_scale", weight_bits=2, device_bits=2)
    stds = variation.variance(torch.tensor([0.0, 1 / 3, -2 / 3, 1.0])).sqrt()
    assert stds.tolist() == pytest.approx(list(variation.level_stds))


def test_the_two_modes_differ():
    """A small weight has middle levels in its low slices, which count little, and 0.45 = 01 11 00 11 in binary."""
    weight = torch.tensor([1.0, 0.45])
    band = LevelGaussian(0.1, 4.0, **FULL).variance(weight)
    sliced = LevelGaussian(0.1, 4.0, level_mode="per_slice", **FULL).variance(weight)
    assert band[0] == pytest.approx(sliced[0].item())
    assert 0.9 * band[1] < sliced[1] < band[1]


@pytest.mark.parametrize("options", CONVENTIONS)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-10, 10), size=st.integers(1, 40), ratio=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_scaling_the_tensor_scales_the_deviation(options, seed, power, size, ratio):
    weight = torch.randn(size, generator=generator(seed))
    variation = LevelGaussian(0.1, ratio, **options)
    base = variation.sample(weight, generator(seed))
    assert torch.equal(variation.sample(weight * 2.0**power, generator(seed)), base * 2.0**power)
    assert torch.equal(variation.sample(-weight, generator(seed)), base)
    torch.testing.assert_close(variation.scaled(3.0).sample(weight, generator(seed)), 3.0 * base)
    bounds = [variation.std * weight.abs().max().item() * level / variation.sigma for level in variation.level_stds]
    stds = variation.variance(weight).sqrt()
    assert (stds >= min(bounds) * (1 - 1e-5)).all()
    assert (stds <= max(bounds) * (1 + 1e-5)).all()


@pytest.mark.parametrize("options", CONVENTIONS)
def test_degenerate_weights(options):
    variation = LevelGaussian(0.1, 4.0, **options)
    assert variation.sample(torch.empty(0, 3), generator()).shape == (0, 3)
    assert torch.equal(variation.sample(torch.zeros(5), generator()), torch.zeros(5))
    assert torch.equal(variation.variance(torch.zeros(5)), torch.zeros(5))
    half = torch.tensor([1.0, 0.5], dtype=torch.bfloat16)
    assert variation.sample(half, generator()).dtype == torch.float32
    assert torch.equal(variation.variance(half), variation.variance(half.float()))


@pytest.mark.parametrize("options", CONVENTIONS)
def test_gradient_is_straight_through(options):
    weight = torch.randn(4, 5, generator=generator(), requires_grad=True)
    variation = LevelGaussian(0.1, 2.0, **options)
    deviated = variation.deviate(weight, variation.draw(weight.shape, generator(1)))
    deviated.sum().backward()
    assert torch.equal(weight.grad, torch.ones(4, 5))
    torch.testing.assert_close(deviated.detach(), weight.detach() + variation.sample(weight, generator(1)))
    assert not variation.variance(weight).requires_grad


def test_is_a_plain_frozen_value():
    variation = LevelGaussian(0.1, 4.0, level_mode="per_slice", **FULL)
    assert eval(str(variation), {"LevelGaussian": LevelGaussian}) == variation
    assert str(LevelGaussian(0.1, 4.0)) == "LevelGaussian(sigma=0.1, ratio=4.0)"
    assert pickle.loads(pickle.dumps(variation)) == copy.deepcopy(variation) == variation
    assert hash(variation) == hash(copy.copy(variation))
    assert LevelGaussian(0.0, 4.0).is_null
    assert variation.scaled(0.5) == LevelGaussian(0.05, 4.0, level_mode="per_slice", **FULL)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((-0.1, 2.0), {}, r"LevelGaussian: sigma must be a finite number >= 0"),
        ((0.1, 0.0), {}, r"ratio must be a finite number > 0, got 0.0"),
        ((0.1, math.nan), {}, r"ratio must be a finite number > 0, got nan"),
        ((0.1, math.inf), {}, r"ratio must be a finite number > 0, got inf"),
        ((0.1, 2.0), {"level_mode": "slice"}, r"level_mode must be 'weight_band' or 'per_slice', got 'slice'"),
        ((0.1, 2.0), {"level_mode": "per_slice"}, r"needs devices, which sigma_ref='weight' has none of"),
        ((0.1, 2.0), {**FULL, "device_bits": 1, "level_mode": "per_slice"}, r"1 bit has no middle level"),
        ((0.1, 2.0), {**FULL, "device_bits": 3}, r"must be a positive multiple of device_bits=3"),
    ],
)
def test_bad_arguments_are_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        LevelGaussian(*arguments, **options)


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"unknown preset 'FeFET3'; known: RRAM1, FeFET2, RRAM4, FeFET6"):
        LevelGaussian.preset("FeFET3", 0.1)
