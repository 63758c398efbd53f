"""Devices of one tensor against loops over single devices."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.variation.conductance import Device, Polynomial
from lightning_cim.variation.device_array import UNIT_DEVICE, DeviceArray
from lightning_cim.variation.encoding import Encoding

CELL = Device("cell", "uS", 2.0, 12.0, Polynomial((0.5,)))
ENCODINGS = [
    Encoding(),
    Encoding("offset"),
    Encoding(weight_bits=8, device_bits=2),
    Encoding("offset", 6, 3),
    Encoding("offset", 4, 1),
    Encoding(weight_bits=4, device_bits=4),
]
WEIGHT = torch.tensor([[-1.6, 1.5, 0.0, 0.4], [-0.3, 1.1, -0.01, 0.8]])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def targets_by_hand(w, largest, device, encoding):
    """Conductances of one weight, (slice, column) after (slice, column), digit after digit."""
    is_pair = encoding.scheme == "differential"
    fraction = abs(w) / largest if is_pair else (w / largest + 1) / 2
    parts = [fraction]
    if encoding.weight_bits is not None:
        code, base = math.floor(fraction * (2**encoding.weight_bits - 1) + 0.5), 2**encoding.device_bits
        parts = [code // base**place % base / (base - 1) for place in range(encoding.slices)]
    used = [device.g_min + part * (device.g_max - device.g_min) for part in parts]
    if not is_pair:
        return [[g] for g in used]
    return [[g, device.g_min] if w >= 0 else [device.g_min, g] for g in used]


def error_by_hand(errors, largest, device, encoding):
    """What errors of the devices of one weight, [slice][column], add up to."""
    total = 0.0
    for place, columns in enumerate(errors):
        counts = 1.0
        if encoding.weight_bits is not None:
            base = 2**encoding.device_bits
            counts = (base - 1) * base**place / (2**encoding.weight_bits - 1)
        total += counts * (columns[0] - columns[1] if len(columns) == 2 else 2 * columns[0])
    return total * largest / (device.g_max - device.g_min)


@pytest.mark.parametrize("device", [CELL, UNIT_DEVICE], ids=["cell", "unit"])
@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_targets_and_decoding_against_a_loop_over_devices(device, encoding):
    devices = DeviceArray(WEIGHT, device, encoding)
    assert devices.held is devices.targets
    assert devices.levels is devices.targets
    assert devices.targets.shape == (encoding.slices, encoding.columns, 2, 4)
    assert not devices.deviation().any()
    assert torch.equal(devices.weight(), WEIGHT)
    errors = torch.randn(devices.targets.shape, generator=generator(1))
    devices.held = devices.held + errors
    for index in itertools.product(range(2), range(4)):
        each = (slice(None), slice(None), *index)
        by_hand = targets_by_hand(WEIGHT[index].item(), 1.6, device, encoding)
        torch.testing.assert_close(devices.targets[each], torch.tensor(by_hand), rtol=1e-5, atol=1e-5)
        expected = error_by_hand(errors[each].tolist(), 1.6, device, encoding)
        assert devices.deviation()[index].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert devices.weight()[index].item() == pytest.approx(WEIGHT[index].item() + expected, rel=1e-4, abs=1e-5)


def test_the_weight_itself_is_not_rounded_to_its_integer():
    """Slicing decides which level a device holds, not what the weight is."""
    weight = torch.tensor([1.0, 0.34, -0.4])
    devices = DeviceArray(weight, CELL, Encoding(weight_bits=2, device_bits=1))
    assert torch.equal(devices.weight(), weight)
    decoded = Encoding(weight_bits=2, device_bits=1).decode(devices.targets, 1.0, CELL)
    torch.testing.assert_close(decoded, torch.tensor([1.0, 1 / 3, -1 / 3]))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-6, 6), size=st.integers(1, 12))
@settings(max_examples=15, deadline=None)
def test_errors_make_up_exactly_the_deviation(encoding, seed, power, size):
    source = generator(seed)
    weight, deviation = 2.0**power * torch.randn(2, size, generator=source)
    devices = DeviceArray(weight, CELL, encoding)
    errors = devices.errors_of(deviation)
    assert errors.shape == devices.targets.shape
    assert ((errors != 0).sum((0, 1)) == 1).all()  # one device takes all of it
    assert (errors[:-1] == 0).all()  # that of the most significant bits
    devices.held = devices.held + errors
    scale = max(weight.abs().max().item(), deviation.abs().max().item())
    torch.testing.assert_close(devices.deviation(), deviation, rtol=1e-5, atol=4e-6 * scale)


def test_the_device_of_the_sign_takes_the_error():
    devices = DeviceArray(torch.tensor([1.0, -1.0]), UNIT_DEVICE, Encoding())
    errors = devices.errors_of(torch.tensor([0.1, 0.2]))
    # A pair is w = f+ - f-: more weight is less conductance in the negative column.
    torch.testing.assert_close(errors, torch.tensor([[[0.1, 0.0], [0.0, -0.2]]]))


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_spread_against_simulated_errors(encoding):
    """Within 2 %: a std of 20000 draws has a standard error of 0.5 %, and the largest of 8 is looked at."""
    devices = DeviceArray(WEIGHT, CELL, encoding)
    std = torch.rand(devices.targets.shape, generator=generator(2)) + 0.1
    many = DeviceArray(WEIGHT.expand(20_000, 2, 4), CELL, encoding)
    normal = torch.randn(many.targets.shape, generator=generator(3))
    many.held = many.held + normal * std.unsqueeze(2)
    torch.testing.assert_close(many.deviation().std(0), devices.spread(std), rtol=0.02, atol=0)


@pytest.mark.parametrize("gain", [torch.tensor(1.25), torch.tensor([[0.5], [2.0]])], ids=str)
def test_gain_multiplies_the_decoded_weight(gain):
    devices = DeviceArray(WEIGHT, CELL, Encoding())
    devices.held = devices.held + torch.randn(devices.held.shape, generator=generator(4))
    before, std = devices.weight(), devices.spread(torch.full_like(devices.held, 0.3))
    devices.gain = gain
    assert torch.equal(devices.weight(), before)  # what the devices stand for, before the gain
    torch.testing.assert_close(WEIGHT + devices.deviation(), gain * before)
    torch.testing.assert_close(devices.spread(torch.full_like(devices.held, 0.3)), gain * std)


@pytest.mark.parametrize("encoding", ENCODINGS, ids=str)
def test_a_tensor_of_zeros_does_not_deviate(encoding):
    devices = DeviceArray(torch.zeros(3), CELL, encoding)
    assert devices.targets.isfinite().all()
    devices.held = devices.held + torch.randn(devices.held.shape, generator=generator(5))
    assert devices.errors_of(torch.zeros(3)).eq(0).all()
    assert not devices.deviation().any()
    assert not devices.spread(torch.ones_like(devices.held)).any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_types_and_shapes(dtype):
    weight = torch.randn(2, 3, 2, generator=generator(6)).to(dtype)
    devices = DeviceArray(weight.requires_grad_(), CELL, Encoding(weight_bits=4, device_bits=2))
    assert devices.targets.dtype == devices.weight().dtype == devices.deviation().dtype == torch.float32
    assert not devices.weight().requires_grad
    assert devices.errors_of(torch.ones(2, 3, 2, dtype=dtype)).dtype == torch.float32
    assert DeviceArray(torch.tensor(-2.0, dtype=dtype), CELL, Encoding()).deviation().shape == ()
    assert DeviceArray(torch.empty(0, 3, dtype=dtype), CELL, Encoding("offset")).deviation().shape == (0, 3)


def test_units():
    """A law in uS fits devices in uS only; one without a unit is relative to g_max - g_min."""
    cell, relative = (DeviceArray(WEIGHT, device, Encoding()) for device in (CELL, UNIT_DEVICE))
    assert cell.unit_of("uS") == 1.0
    assert cell.unit_of("") == 10.0
    assert relative.unit_of("") == 1.0
    assert cell.reference(None, "") == 12.0
    assert cell.reference(25.0, "uS") == 25.0
    assert relative.reference(25.0, "uS") == 1.0  # relative conductances are over g_max already
    torch.testing.assert_close(cell.relative_to(24.0, "uS"), cell.targets / 24.0)
    for devices, message in ((cell, r"measured in nA, but the devices \(cell\) are in uS"), (relative, "relative")):
        with pytest.raises(ValueError, match=message):
            devices.unit_of("nA")
    with pytest.raises(ValueError, match="measured in nA"):
        cell.reference(3.0, "nA")
