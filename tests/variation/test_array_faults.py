"""Broken lines and clusters against loops over the array, and their shares in closed form."""

import copy
import itertools
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim import Chip, Gaussian, Measured
from lightning_cim.variation.array_faults import StuckClusters, StuckLines
from lightning_cim.variation.composed import Composed
from lightning_cim.variation.conductance import Device, Polynomial
from lightning_cim.variation.device_array import DeviceArray
from lightning_cim.variation.encoding import Encoding
from lightning_cim.variation.faults import StuckAt

DEVICE = Device("silent", "uS", 2.0, 22.0, Polynomial((0.0,)))
SLICED = Encoding(weight_bits=4, device_bits=2, mode="per_slice")
EXAMPLES = [
    StuckLines(rows=0.2, columns=0.1),
    StuckLines(rows=0.3, columns=0.2, tile=(4, 3)),
    StuckClusters(0.2, size=3),
    StuckClusters(0.3, size=2, stuck_at="high"),
]
probabilities = st.floats(0.0, 1.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def acted(faults, shape, encoding=SLICED, seed=0):
    """Which devices failed, of the shape (slices, columns, *shape), and their numbers."""
    devices = DeviceArray(torch.ones(shape), DEVICE, encoding)
    devices.held = devices.levels = torch.full_like(devices.targets, 7.0)
    numbers = faults.draw_devices(devices.held.shape, generator(seed))
    faults.act(devices, numbers)
    failed = devices.held != 7.0
    assert (devices.held[failed] == (DEVICE.g_min if faults.stuck_at == "low" else DEVICE.g_max)).all()
    assert torch.equal(devices.levels, devices.held)
    return failed, numbers


@given(
    rows=probabilities,
    columns=probabilities,
    tile=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
    outputs=st.integers(1, 6),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_lines_one_device_after_the_other(rows, columns, tile, outputs, kernel, seed):
    """A convolution's weight, unrolled by hand: word line (channel, kernel row, kernel column), bit line output."""
    shape = (outputs, 2, *kernel)
    failed, (of_rows, of_columns) = acted(StuckLines(rows, columns, tile=tile), shape, seed=seed)
    high, wide = tile or (math.inf, math.inf)
    for j, sign, out, channel, row, column in itertools.product(range(2), range(2), *map(range, shape)):
        line = (channel * kernel[0] + row) * kernel[1] + column
        broken = (
            float(of_rows[j, sign, int(out // wide), line]) < rows
            or float(of_columns[j, sign, out, int(line // high)]) < columns
        )
        assert bool(failed[j, sign, out, channel, row, column]) == broken


@given(
    share=probabilities,
    size=st.integers(1, 4),
    outputs=st.integers(1, 6),
    inputs=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_clusters_one_device_after_the_other(share, size, outputs, inputs, seed):
    faults = StuckClusters(share, size)
    failed, numbers = acted(faults, (outputs, inputs), seed=seed)
    assert numbers.shape == (2, 2, outputs + size - 1, inputs + size - 1)
    for j, sign, out, line in itertools.product(range(2), range(2), range(outputs), range(inputs)):
        patch = numbers[j, sign, out : out + size, line : line + size]
        assert bool(failed[j, sign, out, line]) == bool((patch < faults.rate).any())


def test_without_tiles_a_line_is_broken_from_end_to_end():
    rows, _ = acted(StuckLines(rows=0.3), (8, 5, 2))
    assert rows.any()
    assert (rows == rows[:, :, :1]).all()
    columns, _ = acted(StuckLines(columns=0.3), (8, 5, 2))
    assert columns.any()
    assert (columns == columns[..., :1, :1]).all()
    # Slices and columns of the pair fail independently.
    assert len({tuple(array.flatten().tolist()) for array in rows.flatten(0, 1)}) == 4


@pytest.mark.parametrize("tile", [None, (16, 8)])
def test_expected_share_of_lines(tile):
    faults = StuckLines(rows=0.1, columns=0.05, tile=tile)
    assert faults.expected_share == pytest.approx(1 - 0.9 * 0.95)
    shares = [acted(faults, (40, 50), seed=seed)[0].double().mean().item() for seed in range(200)]
    spread = torch.tensor(shares).std().item()
    assert sum(shares) / 200 == pytest.approx(faults.expected_share, abs=4 * spread / 200**0.5)
    assert spread < 0.03


@pytest.mark.parametrize(("share", "size"), [(0.1, 3), (0.3, 5), (0.02, 1)])
def test_expected_share_of_clusters_everywhere(share, size):
    """Inside and at the edge alike: 1 - (1 - p)^(size^2)."""
    faults = StuckClusters(share, size)
    assert 1 - (1 - faults.rate) ** (size**2) == pytest.approx(share)
    assert faults.expected_share == share
    failed, _ = acted(faults, (300, 300))
    inside = failed[..., ::size, ::size]  # no patch reaches two of these, so they are independent
    found = inside.double().mean().item()
    assert found == pytest.approx(share, abs=5 * (share * (1 - share) / inside.numel()) ** 0.5)
    corners = torch.stack([acted(faults, (1, 1), seed=seed)[0] for seed in range(1500)])
    assert corners.double().mean().item() == pytest.approx(share, abs=5 * (share * (1 - share) / 6000) ** 0.5)


def test_neighbours_in_a_cluster_fail_together():
    """Two neighbours survive where none of size^2 + size patches is there: (1 - p)^(size^2 + size)."""
    faults = StuckClusters(0.1, 3)
    failed, _ = acted(faults, (1000, 500))
    survive = (~failed[..., 1:] & ~failed[..., :-1]).double().mean().item()
    assert survive == pytest.approx((1 - faults.rate) ** 12, abs=0.003)
    both = (failed[..., 1:] & failed[..., :-1]).double().mean().item()
    assert both == pytest.approx(2 * 0.1 - 1 + (1 - faults.rate) ** 12, abs=0.003)
    assert both > 5 * 0.1**2  # what independent failures would give is 0.01


@pytest.mark.parametrize("faults", EXAMPLES, ids=str)
def test_one_weight_does_not_see_the_others(faults):
    """Mean and variance over chips of every single weight are those of devices that fail alone."""
    weight = torch.tensor([[1.0, -0.5], [0.3, -0.8]])
    variation = Measured(DEVICE, SLICED) + faults
    deviations = torch.stack([variation.sample(weight, generator(seed)) for seed in range(3000)]).double()
    mean, variance = faults.marginal.moments(weight, SLICED)
    assert ((deviations.mean(0) - mean).abs() <= 5 * (variance / 3000).sqrt()).all()
    torch.testing.assert_close(deviations.var(0), variance.double(), rtol=0.15, atol=0.0)
    assert (faults.mean, faults.std) == (faults.marginal.mean, faults.marginal.std)


@pytest.mark.parametrize("faults", EXAMPLES, ids=str)
@given(more=st.floats(1.0, 6.0), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_devices_that_fail_at_one_rate_fail_at_every_larger_one(faults, more, seed):
    few, _ = acted(faults, (7, 6), seed=seed)
    many, _ = acted(faults.scaled(more), (7, 6), seed=seed)
    assert many[few].all()
    assert torch.equal(acted(faults.scaled(1.0), (7, 6), seed=seed)[0], few)


def test_zero_and_certain_failures():
    for faults in (StuckLines(), StuckClusters(0.0)):
        assert faults.is_null
        assert not acted(faults, (5, 4))[0].any()
        assert (faults.mean, faults.std) == (0.0, 0.0)
    for faults in (StuckLines(rows=1.0), StuckLines(columns=1.0), StuckClusters(1.0)):
        assert acted(faults, (5, 4))[0].all()
        assert faults.scaled(7.0) == faults
        assert faults.scaled(0.0).is_null


@pytest.mark.parametrize("faults", EXAMPLES, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (3, 0), (4, 2, 3, 3)], ids=str)
def test_weights_of_any_shape(faults, shape):
    sample = (Gaussian(0.1) + faults).sample(torch.full(shape, 0.5), generator())
    assert sample.shape == shape
    assert not faults.sample(torch.zeros(shape), generator()).any()


def test_chips_keep_their_lines():
    weight = torch.randn(12, 9, generator=generator(1))
    chip = Chip(StuckLines(rows=0.2, columns=0.2) + Gaussian(0.0), 3, 4)
    assert chip.deviation("w", weight).any()
    assert torch.equal(chip.deviation("w", weight), chip.deviation("w", weight))
    assert torch.equal(chip.rewritten().deviation("w", weight), chip.deviation("w", weight))


def test_of_two_faults_the_last_one_decides():
    weight = torch.tensor([1.0, -1.0])
    low, high = StuckLines(rows=1.0), StuckClusters(1.0, stuck_at="high")
    assert (low + high).sample(weight, generator()).tolist() == [-1.0, 1.0]
    only_positive = StuckAt(high=[[1.0, 0.0]])  # then every weight is +1, whatever was broken before
    assert (low + only_positive).sample(weight, generator()).tolist() == [0.0, 2.0]
    assert (only_positive + low).sample(weight, generator()).tolist() == [-1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StuckLines(rows=1.2), "rows must be a probability between 0 and 1, got 1.2"),
        (lambda: StuckLines(columns=-0.1), "columns must be a probability"),
        (lambda: StuckLines(0.1, stuck_at="open"), r"stuck_at must be 'low' \(g_min\) or 'high' \(g_max\), got 'open'"),
        (lambda: StuckLines(0.1, tile=(256,)), r"tile must be the word lines and the bit lines .* got \(256,\)"),
        (lambda: StuckLines(0.1, tile=(0, 4)), "tile must be"),
        (lambda: StuckLines(0.1, tile=(2.5, 4)), "tile must be"),
        (lambda: StuckLines(0.1, tile=256), "tile must be"),
        (lambda: StuckClusters(float("nan")), "share must be a probability"),
        (lambda: StuckClusters(0.1, size=0), "size must be a number of devices >= 1, got 0"),
        (lambda: StuckClusters(0.1, size=2.0), "size must be a number of devices"),
        (lambda: StuckClusters(0.1, stuck_at=1), "stuck_at must be"),
    ],
)
def test_bad_numbers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("faults", EXAMPLES, ids=str)
def test_is_a_plain_frozen_value(faults):
    assert pickle.loads(pickle.dumps(faults)) == copy.deepcopy(faults) == faults
    assert hash(copy.deepcopy(faults)) == hash(faults)
    assert eval(str(faults)) == faults
    assert StuckLines(0.1, tile=[4, 3]) == StuckLines(0.1, tile=(4, 3))
    assert Composed((faults,)).causes == (faults,)
