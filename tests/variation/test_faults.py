"""Stuck devices against loops over devices, closed forms and simulation."""

import copy
import itertools
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim import Chip, Gaussian, Measured, chip_weights, on_chip
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.variation.composed import Composed
from lightning_cim.variation.conductance import Device, Polynomial, linear
from lightning_cim.variation.device_array import UNIT_DEVICE, DeviceArray
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.faults import StuckAt

DEVICE = Device("shifted", "uS", 2.0, 22.0, Polynomial((0.1, 0.3, -0.2), 22.0), linear(0.1, -0.02))
SLICED = Encoding(weight_bits=4, device_bits=2, mode="per_slice")
ENCODINGS = [Encoding(), Encoding("offset"), SLICED, Encoding("offset", 6, 3)]
WEIGHT = torch.tensor([-2.0, -0.7, 0.0, 0.31, 1.41])  # none on the border between two levels
rates = st.floats(0.0, 0.5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def entry(rates, slices, columns, j, column):
    """The rate of one device, read from a number or lists by hand."""
    table = rates if isinstance(rates, tuple) else (rates,)
    row = table[0] if len(table) == 1 else table[j]
    row = row if isinstance(row, tuple) else (row,)
    return row[0] if len(row) == 1 else row[column]


def targets_by_hand(value, largest, device, encoding):
    """Relative conductance and contribution to w / s of every device of one weight, by slice and column."""
    pair = encoding.scheme == "differential"
    fraction = abs(value) / largest if pair else (value / largest + 1) / 2
    if encoding.weight_bits is None:
        digits, places = [fraction], [1.0]
    else:
        levels, whole = 2**encoding.device_bits, 2**encoding.weight_bits - 1
        code, digits, places = int(fraction * whole + 0.5), [], []
        for j in range(encoding.weight_bits // encoding.device_bits):
            code, digit = divmod(code, levels)
            digits.append(digit / (levels - 1))
            places.append((levels - 1) * levels**j / whole)
    found = []
    for digit, place in zip(digits, places, strict=True):
        if pair:
            found.append([(digit if value >= 0 else 0.0, place), (0.0 if value >= 0 else digit, -place)])
        else:
            found.append([(digit, 2 * place)])
    return found


def moments_by_hand(weight, faults, device, encoding, written):
    """Mean and variance of each deviation: every device is a mixture of stuck low, stuck high and written.

    ``written(value, largest, j, column)``: mean and variance of a device's error of writing over the span.
    """
    largest, found = float(weight.abs().max()), []
    for value in weight.tolist():
        mean = variance = 0.0
        for j, columns in enumerate(targets_by_hand(value, largest, device, encoding)):
            for column, (held, place) in enumerate(columns):
                low = entry(faults.low, encoding.slices, encoding.columns, j, column)
                high = entry(faults.high, encoding.slices, encoding.columns, j, column)
                m, v = written(value, largest, j, column, held)
                first = low * (0 - held) + high * (1 - held) + (1 - low - high) * m
                second = low * held**2 + high * (1 - held) ** 2 + (1 - low - high) * (m**2 + v)
                mean += place * first
                variance += place**2 * (second - first**2)
        found.append((mean * largest, variance * largest**2))
    return torch.tensor(found, dtype=torch.float64).T


def assert_simulated(variation, expected, repeats=40_000):
    deviation = variation.sample(WEIGHT.repeat(repeats, 1), generator(3)).double()
    mean, variance = expected
    assert ((deviation.mean(0) - mean).abs() <= 5 * (variance / repeats).sqrt() + 1e-6).all()
    torch.testing.assert_close(deviation.var(0), variance, rtol=0.06, atol=1e-9)


def faults_of(encoding):
    """Rates that differ by slice and by column."""
    low = [[0.05 + 0.04 * j + 0.1 * column for column in range(encoding.columns)] for j in range(encoding.slices)]
    return StuckAt(low=low, high=[0.03 + 0.02 * j for j in range(encoding.slices)])


def exact(value, largest, j, column, held):
    return 0.0, 0.0


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_closed_form_against_a_loop_over_devices(encoding):
    faults = faults_of(encoding)
    mean, variance = faults.moments(WEIGHT, encoding)
    by_hand = moments_by_hand(WEIGHT, faults, UNIT_DEVICE, encoding, exact)
    torch.testing.assert_close(mean.double(), by_hand[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(variance.double(), by_hand[1], rtol=1e-5, atol=1e-6)
    silent = Measured(Device("silent", "uS", 2.0, 22.0, Polynomial((0.0,))), encoding)
    assert_simulated(silent + faults, by_hand)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_mixture_with_measured_devices(encoding):
    faults = faults_of(encoding)

    def written(value, largest, j, column, held):
        used = DEVICE.g_min + held * DEVICE.span
        return DEVICE.shift_at(used) / DEVICE.span, (DEVICE.sigma_at(used) / DEVICE.span) ** 2

    assert_simulated(Measured(DEVICE, encoding) + faults, moments_by_hand(WEIGHT, faults, DEVICE, encoding, written))


@pytest.mark.parametrize(
    ("gaussian", "encoding"),
    [
        (Gaussian(0.2), Encoding()),
        (Gaussian(0.2, sigma_ref="full_scale", weight_bits=4, device_bits=2), SLICED),
    ],
    ids=["plain", "sliced"],
)
def test_mixture_with_a_gaussian(gaussian, encoding):
    """The device with the most significant bits and the sign has the error of the whole weight."""
    faults, largest_place = faults_of(encoding), encoding.places[-1]

    def written(value, largest, j, column, held):
        carries = j == encoding.slices - 1 and column == (0 if value >= 0 else 1)
        return 0.0, (gaussian.std / largest_place) ** 2 if carries else 0.0

    assert_simulated(gaussian + faults, moments_by_hand(WEIGHT, faults, UNIT_DEVICE, encoding, written))


def test_stuck_devices_one_by_one():
    """The same numbers through a loop: u < low holds g_min, u >= 1 - high holds g_max, all else what was written."""
    variation = Measured(DEVICE, SLICED) + StuckAt(low=(0.2, 0.3), high=((0.1, 0.2),))
    weight = torch.randn(6, 5, generator=generator(1))
    numbers = variation.draw(weight.shape, generator(2))
    deviation = variation.deviation(weight, numbers)
    normal, uniform = numbers
    largest, kinds = float(weight.abs().max()), set()
    for at in itertools.product(range(6), range(5)):
        value, error = float(weight[at]), 0.0
        for j, columns in enumerate(targets_by_hand(value, largest, DEVICE, SLICED)):
            for column, (held, place) in enumerate(columns):
                target = DEVICE.g_min + held * DEVICE.span
                z, u = float(normal[j, column][at]), float(uniform[j, column][at])
                conductance = max(target + DEVICE.shift_at(target) + DEVICE.sigma_at(target) * z, 0.0)
                if u < (0.2, 0.3)[j]:
                    conductance = DEVICE.g_min
                elif u >= 1 - (0.1, 0.2)[column]:
                    conductance = DEVICE.g_max
                kinds.add((j, column, conductance in (DEVICE.g_min, DEVICE.g_max)))
                error += place * (conductance - target) / DEVICE.span
        assert float(deviation[at]) == pytest.approx(error * largest, abs=1e-5)
    assert len(kinds) == 8  # both kinds on every slice and column


def acted(faults, shape=(40, 30), encoding=SLICED, seed=0):
    """Devices of which none was at an end of the range before they failed, and their numbers."""
    devices = DeviceArray(torch.ones(shape), DEVICE, encoding)
    devices.held = torch.full_like(devices.targets, 7.0)
    devices.levels = torch.full_like(devices.targets, 6.0)
    numbers = faults.draw_devices(devices.held.shape, generator(seed))
    faults.act(devices, numbers)
    return devices, numbers


def test_a_stuck_device_holds_an_end_exactly_and_laws_go_by_it():
    devices, numbers = acted(StuckAt(low=0.3, high=0.2))
    low, high = devices.held == DEVICE.g_min, devices.held == DEVICE.g_max
    assert low.any()
    assert high.any()
    assert torch.equal(devices.levels[low | high], devices.held[low | high])
    assert (devices.held[~(low | high)] == 7.0).all()
    assert (devices.levels[~(low | high)] == 6.0).all()
    assert torch.equal(low, numbers < 0.3)


@given(low=rates, high=rates, more=st.floats(1.0, 4.0), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=50, deadline=None)
def test_devices_stuck_at_one_rate_are_stuck_at_every_larger_one(low, high, more, seed):
    few, _ = acted(StuckAt(low, high), (7, 6), seed=seed)
    many, _ = acted(StuckAt(low, high).scaled(more), (7, 6), seed=seed)
    for end in (DEVICE.g_min, DEVICE.g_max):
        assert (many.held == end)[few.held == end].all()


@given(low=rates, high=rates, factor=st.floats(0.0, 10.0))
@settings(max_examples=100, deadline=None)
def test_scaled_rates_and_their_sum(low, high, factor):
    scaled = StuckAt(low, high).scaled(factor)
    assert scaled.low + scaled.high == pytest.approx(min(1.0, factor * (low + high)))
    assert scaled.low * high == pytest.approx(scaled.high * low)
    assert StuckAt(low, high).scaled(1.0) == StuckAt(low, high)


def test_scaled_lists_are_capped_one_by_one():
    scaled = StuckAt(low=[0.1, 0.4], high=[[0.0, 0.4]]).scaled(2.0)
    assert torch.tensor(scaled.low).allclose(torch.tensor([[0.2, 0.2], [0.8, 0.5]]))
    assert torch.tensor(scaled.high).allclose(torch.tensor([[0.0, 0.8], [0.0, 0.5]]))
    assert StuckAt(low=[0.1, 0.4], high=0.1).scaled(0.5) == StuckAt(low=[0.05, 0.2], high=0.05)


@pytest.mark.parametrize(("low", "high"), [(1.0, 0.0), (0.0, 1.0)])
def test_certain_faults(low, high):
    devices, _ = acted(StuckAt(low, high))
    assert (devices.held == (DEVICE.g_min if low else DEVICE.g_max)).all()


def test_share_of_stuck_devices():
    devices, _ = acted(StuckAt(low=[0.01, 0.2], high=[[0.1, 0.03]]), (300, 300))
    for j, column in itertools.product(range(2), range(2)):
        held = devices.held[j, column]
        for share, end in (((0.01, 0.2)[j], DEVICE.g_min), ((0.1, 0.03)[column], DEVICE.g_max)):
            found = (held == end).double().mean().item()
            assert found == pytest.approx(share, abs=5 * (share * (1 - share) / 90_000) ** 0.5)


def test_zero_rates_change_nothing():
    model, inputs = torch.nn.Linear(5, 4), torch.randn(3, 5)
    assert StuckAt().is_null
    clean = model(inputs)
    with on_chip(model, Chip(StuckAt(), 0, 0)):
        assert torch.equal(model(inputs), clean)
    devices = DeviceArray(torch.randn(4, 5), DEVICE, SLICED)
    before = devices.held
    StuckAt().act(devices, StuckAt().draw_devices(before.shape, generator()))
    assert torch.equal(devices.held, before)
    for other in (Gaussian(0.1), Measured(DEVICE, SLICED)):
        weight = torch.randn(4, 5)
        both = (other + StuckAt()).sample(weight, generator(1))
        torch.testing.assert_close(both, other.sample(weight, generator(1)), rtol=1e-5, atol=1e-6)
        # A rate so small that no device is stuck is bit for bit the same: the same numbers, the same arithmetic.
        assert torch.equal(both, (other + StuckAt(1e-9, 1e-9)).sample(weight, generator(1)))


def test_a_tensor_of_zeros_and_empty_ones():
    both = Gaussian(0.1) + StuckAt(0.5, 0.5)
    assert not both.sample(torch.zeros(5), generator()).any()
    assert both.sample(torch.empty(0, 3), generator()).shape == (0, 3)
    assert both.sample(torch.tensor(-2.0), generator()).shape == ()
    for moment in StuckAt(0.5, 0.5).moments(torch.zeros(5)):
        assert not moment.any()


@pytest.mark.parametrize("faults", [StuckAt(0.1), StuckAt(0.05, 0.2), StuckAt([[0.3, 0.1]], 0.05)], ids=str)
def test_nominal_moments_against_simulation(faults):
    simulated = Composed((faults,))
    assert faults.std == pytest.approx(simulated.std, rel=0.02)
    assert faults.mean == pytest.approx(simulated.mean, abs=0.003)
    assert not faults.variance(WEIGHT).any()  # nothing of it is an error of writing
    assert faults.written.is_null


def test_verified_weights_stay_stuck():
    """What write-verify leaves on every weight is as if only the faults were there."""
    faults = StuckAt(low=0.3, high=0.2)
    variation = Gaussian(0.3) + faults
    weight = torch.randn(20, 10, generator=generator(1))
    numbers = variation.draw(weight.shape, generator(2))
    everywhere = torch.ones_like(weight, dtype=torch.bool)
    verified = variation.rewritten(weight, numbers, everywhere, torch.zeros_like(weight))
    only_faults = Composed((faults,)).deviation(weight, (numbers[1],))
    torch.testing.assert_close(verified, only_faults)
    assert verified.abs().max() > 0.3
    half = everywhere.clone()
    half[:10] = False
    partly = variation.rewritten(weight, numbers, half, torch.zeros_like(weight))
    torch.testing.assert_close(partly[10:], only_faults[10:])
    torch.testing.assert_close(partly[:10], variation.deviation(weight, numbers)[:10])


def test_a_verified_chip_keeps_its_faults():
    model, faults = torch.nn.Linear(20, 10, bias=False), StuckAt(low=0.3)
    everywhere = {"weight": torch.ones(10, 20, dtype=torch.bool)}
    chip = VerifiedChip(Gaussian(0.3) + faults, 0, 1, verified=everywhere, residual=Gaussian(0.0))
    numbers = chip.draw("weight", model.weight)[0]
    expected = model.weight + Composed((faults,)).deviation(model.weight.detach(), (numbers[1],))
    torch.testing.assert_close(chip_weights(model, chip)["weight"], expected.detach())


def test_chips_with_faults_are_reproducible_and_follow_the_rate():
    weight = torch.randn(30, 20, generator=generator(1))
    few, again, many = (Chip(Gaussian(0.05) + StuckAt(low=p), 5, 2).deviation("w", weight) for p in (0.02, 0.02, 0.2))
    assert torch.equal(few, again)
    kept = few == many
    assert 0.7 < kept.double().mean() < 0.95  # devices that fail at neither rate, or at both, are the same
    assert not torch.equal(few, Chip(Gaussian(0.05) + StuckAt(low=0.02), 5, 3).deviation("w", weight))


def test_lists_must_fit_the_devices():
    sliced = Measured(DEVICE, SLICED)
    with pytest.raises(ValueError, match=r"low is given for 3 slices of 1 column, but .* 2 slices of 2 columns"):
        sliced + StuckAt(low=[0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match=r"high is given for 1 slice of 2 columns, but .* 1 slice of 1 column"):
        StuckAt(high=[[0.1, 0.2]]) + Measured(DEVICE, Encoding("offset"))
    with pytest.raises(ValueError, match="low is given for 2 slices"):
        Gaussian(0.1, sigma_ref="full_scale", weight_bits=8, device_bits=2) + StuckAt(low=[0.1, 0.2])
    with pytest.raises(ValueError, match="low is given for 2 slices"):  # nothing in the sum knows of slices
        (StuckAt(low=[0.1, 0.2]) + Gaussian(0.1)).sample(WEIGHT, generator())
    with pytest.raises(ValueError, match="low is given for 2 slices"):
        StuckAt(low=[0.1, 0.2]).moments(WEIGHT)
    # The order of a sum does not matter: what knows the slices may come last.
    assert (StuckAt(low=[0.1, 0.2]) + Gaussian(0.1) + sliced).parts[0] == StuckAt(low=[0.1, 0.2])


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (-0.1, 0.0, "low must be a probability between 0 and 1, got -0.1"),
        (0.0, 1.5, "high must be a probability"),
        (float("nan"), 0.0, "low must be a probability"),
        ("much", 0.0, "low must be a probability between 0 and 1, got 'much'"),
        (None, 0.0, "low must be a probability"),
        (0.6, 0.5, "low [+] high must be at most 1, got 1.1"),
        ([0.1, 0.9], 0.2, "at most 1, got 1.1"),
        ([], 0.0, "low must be a number, one number for each slice"),
        ([[]], 0.0, "low must be a number, one number for each slice"),
        ([[0.1, 0.2], [0.1]], 0.0, "low must be a number, one number for each slice"),
        ([0.1, [0.1, 0.2]], 0.0, "low must be a number, one number for each slice"),
        ([0.1, 2.0], 0.0, "low must be a probability between 0 and 1, got 2.0"),
        ([0.1, 0.1], [0.1, 0.1, 0.1], "low is given for 2 slices of 1 column and high for 3 slices of 1 column"),
    ],
)
def test_bad_rates_are_refused(low, high, message):
    with pytest.raises(ValueError, match=message):
        StuckAt(low, high)


@pytest.mark.parametrize("faults", [StuckAt(), StuckAt(0.1, 0.2), StuckAt([0.1, 0.2], [[0.1, 0.2]])], ids=str)
def test_is_a_plain_frozen_value(faults):
    assert pickle.loads(pickle.dumps(faults)) == copy.deepcopy(faults) == faults
    assert hash(copy.deepcopy(faults)) == hash(faults)
    assert eval(str(faults)) == faults


def test_lists_are_brought_to_their_shortest_form():
    assert StuckAt([[0.1]], [0.2]) == StuckAt(0.1, 0.2)
    assert StuckAt([[0.1], [0.2]]) == StuckAt([0.1, 0.2])
    assert str(StuckAt(low=0.1)) == "StuckAt(low=0.1)"
