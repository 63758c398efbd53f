"""Encodings against a loop over devices, and the published slicing constants from simulated slices."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Polynomial, SaturatingExponential, Table, linear
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.gaussian import slice_factor
from lightning_cim.variation.measured import Measured
from tests.variation.quadrature import cut_moments

UNIFORM = Device("uniform", "uS", 2.0, 12.0, Polynomial((0.7,)))
CURVED = Device("curved", "uS", 2.0, 12.0, SaturatingExponential(2.0, 3.0), linear(0.3, -0.05))
NEAR = Device("near zero", "uS", 0.1, 12.1, linear(0.9, -0.05), linear(0.3, -0.05))
SIGNED = Device("signed", "normalised", -1.0, 1.0, linear(0.3, 0.1), linear(0.05, -0.1))
LEVELS = Device("levels", "uS", 0.0, 30.0, Table((0.0, 10.0, 20.0, 30.0), (0.2, 0.9, 1.4, 0.3)))
ENCODINGS = [
    Encoding(),
    Encoding("offset"),
    Encoding(weight_bits=8, device_bits=2),
    Encoding("offset", 6, 3),
    Encoding("offset", 4, 1),
    Encoding(weight_bits=4, device_bits=4),
]
WEIGHT = torch.tensor([[-1.6, 1.6, 0.0, 0.4], [-0.3, 1.1, -0.01, 0.8]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def per_slice(encoding):
    return Encoding(encoding.scheme, encoding.weight_bits, encoding.device_bits, "per_slice")


def written(device, target):
    """Mean and std of the error of one device whose conductance, unless the range has a sign, is cut at zero."""
    if device is SIGNED:
        return device.shift_at(target), device.sigma_at(target)
    mean, spread = cut_moments(target + device.shift_at(target), device.sigma_at(target))
    return mean - target, spread


def moments_by_hand(value, largest, device, encoding):
    """Mean and variance of one weight's error: write digit after digit, add up what the devices contribute."""
    is_pair = encoding.scheme == "differential"
    fraction = abs(value) / largest if is_pair else (value / largest + 1) / 2
    span = device.g_max - device.g_min
    if encoding.weight_bits is None:
        stored, counts = [fraction], [1.0]
    else:
        code, base = math.floor(fraction * (2**encoding.weight_bits - 1) + 0.5), 2**encoding.device_bits
        stored, counts = [], []
        for place in range(encoding.weight_bits // encoding.device_bits):
            code, digit = divmod(code, base)
            stored.append(digit / (base - 1))
            counts.append((base - 1) * base**place / (2**encoding.weight_bits - 1))
    mean = variance = 0.0
    for part, count in zip(stored, counts, strict=True):
        unit = count * largest * (1 if is_pair else 2) / span
        error, spread = written(device, device.g_min + part * span)
        mean += unit * error
        variance += (unit * spread) ** 2
        if is_pair:
            error, spread = written(device, device.g_min)
            mean -= unit * error
            variance += (unit * spread) ** 2
    return math.copysign(1, value) * mean if is_pair else mean, variance


@pytest.mark.parametrize("device", [UNIFORM, CURVED, LEVELS, SIGNED], ids=lambda device: device.name)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_moments_against_a_loop_over_devices(device, encoding):
    """Exact for sliced weights. Others are looked up at the nearest of 65537 values, so within one half step of w."""
    variation = Measured(device, encoding)
    largest = WEIGHT.max().item()
    means, variances = variation.mean_deviation(WEIGHT).flatten(), variation.variance(WEIGHT).flatten()
    half_step = largest / 2**16 if encoding.weight_bits is None else 0.0
    for w, mean, variance in zip(WEIGHT.flatten().tolist(), means.tolist(), variances.tolist(), strict=True):
        near = [min(max(w + shift, -largest), largest) for shift in (-half_step, 0.0, half_step)]
        by_hand = [moments_by_hand(value, largest, device, encoding) for value in near]
        (least, _, most), (low, _, high) = map(sorted, zip(*by_hand, strict=True))
        assert least - 1e-6 <= mean <= most + 1e-6
        assert low * (1 - 1e-5) <= variance <= high * (1 + 1e-5)


@pytest.mark.parametrize("device", [UNIFORM, CURVED, LEVELS, SIGNED], ids=lambda device: device.name)
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_both_modes_draw_what_variance_says(device, encoding):
    """Within 2 %: a sample std of 40000 draws has a standard error of 0.35 %."""
    draws = WEIGHT.expand(40_000, *WEIGHT.shape)
    for mode in (encoding, per_slice(encoding)):
        variation = Measured(device, mode)
        sample = variation.sample(draws, generator(1)).double()
        std = variation.variance(WEIGHT).double().sqrt()
        torch.testing.assert_close(sample.std(0), std, rtol=0.02, atol=0)
        error = sample.mean(0) - variation.mean_deviation(WEIGHT).double()
        assert (error.abs() < 5 * std / math.sqrt(40_000)).all()


@pytest.mark.parametrize("bits", [(4, 2), (8, 2), (8, 1)])
def test_minus_half_of_the_largest_weight_lies_on_the_same_levels_in_both_modes(bits):
    """2^M - 1 is odd, so -s/2 is always half way between two integers, whose digits differ in every slice."""
    encoding = Encoding("differential", *bits)
    weight = torch.tensor([1.0, 0.5, -0.5])
    std = Measured(LEVELS, encoding).variance(weight).sqrt()
    assert std[1] == std[2]
    sample = Measured(LEVELS, per_slice(encoding)).sample(weight.expand(40_000, 3), generator(1))
    torch.testing.assert_close(sample.std(0), std, rtol=0.02, atol=0)


@pytest.mark.parametrize("scheme", ["differential", "offset"])
def test_a_pair_drawn_device_by_device_is_a_slow_loop(scheme):
    encoding = Encoding(scheme, 6, 2, "per_slice")
    variation = Measured(NEAR, encoding)
    numbers = variation.draw(WEIGHT.shape, generator(3))
    assert numbers.shape == (3, encoding.columns, *WEIGHT.shape)
    cut = 0
    found = variation.deviation(WEIGHT, numbers)
    for index in itertools.product(range(2), range(4)):
        w = WEIGHT[index].item()
        fraction = abs(w) / 1.6 if scheme == "differential" else (w / 1.6 + 1) / 2
        code, read = math.floor(fraction * 63 + 0.5), 0.0
        for j in range(3):
            used = 0.1 + 12.0 * ((code >> 2 * j) & 3) / 3
            targets = [used] if scheme == "offset" else [used, 0.1] if w >= 0 else [0.1, used]
            held = [
                g + NEAR.shift_at(g) + NEAR.sigma_at(g) * numbers[(j, column, *index)].item()
                for column, g in enumerate(targets)
            ]
            cut += sum(g < 0 for g in held)
            errors = [max(g, 0.0) - target for g, target in zip(held, targets, strict=True)]
            read += 4**j * 3 / 63 * (errors[0] if scheme == "offset" else errors[0] - errors[1])
        expected = read / 12.0 * 1.6 * (2 if scheme == "offset" else 1)
        assert found[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert cut > 0  # or nothing would be seen of the cut at zero


def simulated_std(encoding, largest_error):
    """Std of w / s when the error of each device is +e or -e: every combination of signs is written and read back."""
    device = Device("simulated", "uS", 10.0, 11.0, Polynomial((largest_error,)))  # far above 0, where nothing is cut
    weight = torch.tensor([0.37], dtype=torch.float64)
    targets = encoding.conductances(weight, 1.0, device)
    clean = encoding.decode(targets, 1.0, device)
    read = []
    for signs in itertools.product((-1.0, 1.0), repeat=encoding.slices * encoding.columns):
        errors = torch.tensor(signs, dtype=torch.float64).view(targets.shape) * device.sigma(targets)
        read.append(encoding.decode(targets + errors, 1.0, device) - clean)
    return torch.cat(read).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("convention", "bits", "expected"),
    [
        ("full_scale", (8, 1), 0.5796),
        ("full_scale", (8, 2), 0.7776),
        ("full_scale", (6, 2), 0.7868),
        ("full_scale", (4, 4), 1.0),
        ("lsb", (8, 1), 0.5773),
        ("lsb", (8, 2), 0.2582),
        ("lsb", (6, 2), 0.2582),
        ("lsb", (4, 4), 0.0625),
    ],
)
@pytest.mark.parametrize("scheme", ["differential", "offset"])
def test_published_slicing_constants_from_simulated_slices(convention, bits, expected, scheme):
    """The published constants have one device for each slice and the weight's own range.

    A pair has two devices, an offset column spreads 2 s over the range. SWIM's error is relative to a device's least
    significant bit, and it divides by 2^M where the largest integer is 2^M - 1.
    """
    weight_bits, device_bits = bits
    encoding = Encoding(scheme, weight_bits, device_bits)
    if encoding.slices * encoding.columns > 8:
        encoding = Encoding("offset", weight_bits, device_bits)  # 2^16 combinations say nothing more
    alone = simulated_std(encoding, 0.01) / 0.01 / (math.sqrt(2) if encoding.columns == 2 else 2.0)
    if convention == "lsb":
        alone *= (2**weight_bits - 1) / (2**device_bits - 1) / 2**weight_bits
    assert round(alone, 4) == expected
    assert alone == pytest.approx(slice_factor(convention, *bits), rel=1e-9)
    device = Device("same", "uS", 10.0, 11.0, Polynomial((0.01,)))
    collapsed = Measured(device, encoding).variance(torch.tensor([0.37, 1.0])).sqrt()[0].item()
    assert collapsed == pytest.approx(simulated_std(encoding, 0.01), rel=1e-6)


@given(
    weights=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=20),
    scheme=st.sampled_from(["differential", "offset"]),
    bits=st.sampled_from([(None, None), (8, 2), (8, 1), (6, 3), (12, 4), (16, 4)]),
    scale=st.floats(0.01, 100),
)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read_back(weights, scheme, bits, scale):
    encoding = Encoding(scheme, *bits)
    weight = torch.tensor(weights, dtype=torch.float64) * scale
    targets = encoding.conductances(weight, scale, CURVED)
    assert targets.shape == (encoding.slices, encoding.columns, *weight.shape)
    assert (targets >= CURVED.g_min - 1e-9).all()
    assert (targets <= CURVED.g_max + 1e-9).all()
    if scheme == "differential":
        assert (targets.min(1).values == CURVED.g_min).all()  # one device of each pair is unused
    step = 0.0 if bits[0] is None else encoding.gain / (2 ** bits[0] - 1)
    error = (encoding.decode(targets, scale, CURVED) - weight).abs() / scale
    assert (error <= step / 2 + 1e-9).all()


def test_places_add_up():
    for encoding in ENCODINGS:
        assert sum(encoding.places) == pytest.approx(1.0)
        assert len(encoding.places) == encoding.slices
    assert Encoding(weight_bits=8, device_bits=2).places == pytest.approx((3 / 255, 12 / 255, 48 / 255, 192 / 255))


def test_error_of_levels_differs_from_slice_to_slice():
    """0b0110 on 2-bit devices: the levels 2 and 1 have other errors than 0b1100. Far above 0 nothing is cut."""
    device = Device("far", "uS", 100.0, 130.0, Table((100.0, 110.0, 120.0, 130.0), (0.2, 0.9, 1.4, 0.3)))
    encoding = Encoding(weight_bits=4, device_bits=2)
    weight = torch.tensor([6.0, 12.0, 15.0])
    variance = Measured(device, encoding).variance(weight)
    unused = 0.2**2 * (0.2**2 + 0.8**2)
    expected = [0.2**2 * 1.4**2 + 0.8**2 * 0.9**2, 0.2**2 * 0.2**2 + 0.8**2 * 0.3**2, (0.2**2 + 0.8**2) * 0.3**2]
    assert variance.tolist() == pytest.approx([(v + unused) * (15 / 30) ** 2 for v in expected], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pair",), "scheme must be 'differential' or 'offset', got 'pair'"),
        (("offset", None, None, "sliced"), "mode must be 'collapsed' or 'per_slice', got 'sliced'"),
        (("offset", 8), "slicing needs both weight_bits and device_bits"),
        (("offset", 8, 3), "weight_bits=8 must be a positive multiple of device_bits=3"),
        (("offset", 0, 1), "weight_bits=0 must be a positive multiple"),
        (("offset", 20, 2), "weight_bits must be at most 16, got 20"),
    ],
)
def test_meaningless_encodings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Encoding(*arguments)
