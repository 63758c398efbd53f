"""Quantisers against plain Python loops and against numpy's percentile."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lightning_cim.chip.mapping import Mapping
from lightning_cim.chip.quantise import ActivationQuantiser, QuantiseWeights, quantise_weight, straight_through
from lightning_cim.chip.transform import Stored

LARGEST = {8: 127, 4: 7, 2: 1, 1: 1}


def slow_quantise(rows, bits, kept):
    """Levels and steps of nested lists, one row an output channel, by the definitions in words."""
    levels, steps = [], []
    for row, keep in zip(rows, kept, strict=True):
        magnitudes = [abs(w) for w, k in zip(row, keep, strict=True) if k]
        mean = sum(magnitudes) / len(magnitudes) if magnitudes else 0.0
        step = {8: max(magnitudes, default=0.0) / 127, 4: 0.4 * mean, 2: 1.4 * mean, 1: mean}[bits] or 1.0
        line = []
        for w, k in zip(row, keep, strict=True):
            if not k:
                line.append(0)
            elif bits == 1:
                line.append((w > 0) - (w < 0))
            else:
                line.append(max(-LARGEST[bits], min(LARGEST[bits], round(w / step))))
        levels.append(line)
        steps.append(step)
    return levels, steps


def random_weight(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 5), columns=st.integers(1, 12), density=st.floats(0, 1))
@settings(max_examples=40, deadline=None)
def test_equals_a_plain_loop(bits, seed, rows, columns, density):
    weight = random_weight(seed, rows, columns)
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < density
    levels, step = quantise_weight(weight * mask, bits, mask=mask)
    slow_levels, slow_steps = slow_quantise((weight * mask).tolist(), bits, mask.tolist())
    assert levels.tolist() == slow_levels
    assert step.shape == (rows, 1)
    assert step.flatten().tolist() == pytest.approx(slow_steps, rel=1e-12)


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (4, 15), (2, 3), (1, 2)])
def test_number_of_levels(bits, most):
    heavy_tailed = torch.linspace(-1, 1, 5000).pow(3).reshape(1, -1)  # reaches every level, and is never 0
    levels, _ = quantise_weight(heavy_tailed, bits)
    assert levels.unique().numel() == most
    assert levels.abs().max() == LARGEST[bits]
    if bits == 1:
        assert levels.unique().tolist() == [-1.0, 1.0]


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
@pytest.mark.parametrize("given_mask", [True, False])
def test_pruned_zeros_do_not_shrink_the_step(bits, given_mask):
    kept = random_weight(0, 3, 8)
    padded = torch.cat([kept, torch.zeros(3, 8, dtype=torch.float64)], dim=1)
    mask = torch.arange(16).expand(3, 16) < 8
    levels, step = quantise_weight(padded, bits, mask=mask if given_mask else None)
    dense_levels, dense_step = quantise_weight(kept, bits)
    torch.testing.assert_close(step, dense_step, rtol=1e-14, atol=0)
    assert torch.equal(levels[:, :8], dense_levels)
    assert not levels[:, 8:].any()


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_each_channel_is_quantised_alone_along_any_axis(bits):
    weight = random_weight(0, 3, 4, 2, 2) * torch.tensor([1.0, 10.0, 0.1, 3.0]).reshape(1, 4, 1, 1)
    levels, step = quantise_weight(weight, bits, dim=1)
    assert step.shape == (1, 4, 1, 1)
    for channel in range(4):
        alone, alone_step = quantise_weight(weight[:, channel].reshape(1, -1), bits)
        assert torch.equal(levels[:, channel].reshape(1, -1), alone)
        assert step[0, channel].item() == pytest.approx(alone_step.item(), rel=1e-14)
    assert torch.equal(quantise_weight(weight, bits, dim=-3)[0], levels)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_zero_channels_stay_zero_and_finite(bits):
    weight = torch.stack([torch.zeros(5), torch.randn(5)])
    levels, step = quantise_weight(weight, bits)
    assert not levels[0].any()
    assert torch.isfinite(step).all()
    assert (step > 0).all()


def test_eight_bits_are_within_half_a_step_and_reach_the_largest_weight():
    weight = random_weight(1, 6, 50)
    levels, step = quantise_weight(weight, 8)
    assert ((levels * step - weight).abs() <= step / 2 * (1 + 1e-12)).all()
    torch.testing.assert_close((levels * step).abs().amax(1), weight.abs().amax(1))


@pytest.mark.parametrize("bits", [0, 3, 16, 8.5])
def test_other_bits_are_refused(bits):
    with pytest.raises(ValueError, match=r"weight bits must be one of \(8, 4, 2, 1\)"):
        quantise_weight(torch.ones(2, 2), bits)
    with pytest.raises(ValueError, match="weight bits of 'conv1' must be one of"):
        QuantiseWeights({"conv1": bits})


def test_straight_through_is_exact_both_ways():
    value = torch.randn(50, requires_grad=True)
    quantised = (value * 3).round().detach() / 3
    out = straight_through(value, quantised)
    assert torch.equal(out, quantised)
    gradient = torch.randn(50)
    out.backward(gradient)
    assert torch.equal(value.grad, gradient)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(3, 4, 2)])
def test_link_quantises_along_the_layers_outputs(layer):
    stored = Stored("c.weight", layer, layer.weight)
    QuantiseWeights(2).apply(stored)
    channels = stored.value.movedim(1, 0) if isinstance(layer, nn.ConvTranspose2d) else stored.value
    assert len(channels) == 4
    for channel in channels:
        assert channel.abs().unique().numel() <= 2  # ternary: 0 and one magnitude
    stored.value.sum().backward()
    assert torch.equal(layer.weight.grad, torch.ones_like(layer.weight))


def test_bits_by_first_matching_name():
    link = QuantiseWeights({"conv1": 8, "conv*": 4, "head.fc.weight": 1})
    assert link.bits_of("conv1.weight") == 8
    assert link.bits_of("conv2.0.weight") == 4
    assert link.bits_of("head.fc.weight") == 1
    assert link.bits_of("head.other.weight") is None
    stored = Stored("head.other.weight", nn.Linear(2, 2), torch.randn(2, 2))
    before = stored.value
    link.apply(stored)
    assert stored.value is before


def test_a_name_that_fits_nothing_is_refused():
    link = QuantiseWeights({"1": 8, "cnov": 4})
    with pytest.raises(ValueError, match=r"weight_bits names 'cnov', which fits no mapped parameter of: 0.weight"):
        link.check(Mapping().resolve(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))))


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_lie_on_the_grid(bits, signed):
    x = torch.randn(4000) if signed else torch.rand(4000)
    quantiser = ActivationQuantiser(bits)
    out = quantiser(x, observe=True)
    low, high = (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    assert quantiser.limits == (low, high)
    levels = out / quantiser.scale
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert low - 1e-3 <= levels.min()
    assert levels.max() <= high + 1e-3
    slow = [max(low, min(high, round(v / quantiser.scale))) * quantiser.scale for v in x.double().tolist()]
    # A value on the border of two levels may fall to either, one step apart.
    off = (out.double() - torch.tensor(slow, dtype=torch.float64)).abs()
    assert (off > 1e-5).sum() <= 2


@pytest.mark.parametrize("size", [10, 1000, 2000, 40_000])
def test_range_is_the_percentile_of_magnitudes(size):
    x = torch.randn(size, generator=torch.Generator().manual_seed(0))
    quantiser = ActivationQuantiser(8, percentile=99.0)
    quantiser(x, observe=True)
    low, high = (np.percentile(x.abs().numpy(), 99.0, method=method) for method in ("lower", "higher"))
    assert low <= float(quantiser.range) <= high


def test_range_is_a_moving_average():
    quantiser = ActivationQuantiser(8, momentum=0.25, percentile=99.0)
    for top in (1.0, 2.0, 5.0):
        quantiser(torch.full((10,), top), observe=True)
    assert float(quantiser.range) == pytest.approx((1.0 * 0.75 + 2.0 * 0.25) * 0.75 + 5.0 * 0.25)
    quantiser(torch.full((10,), 100.0), observe=False)
    assert float(quantiser.range) == pytest.approx(2.1875)


def test_becomes_signed_and_stays_so():
    quantiser = ActivationQuantiser(4)
    quantiser(torch.tensor([0.0, 1.0]), observe=True)
    assert quantiser.limits == (0, 15)
    quantiser(torch.tensor([-0.5, 1.0]), observe=True)
    quantiser(torch.tensor([0.5, 1.0]), observe=True)
    assert quantiser.limits == (-7, 7)


def test_gradient_passes_inside_and_stops_outside():
    quantiser = ActivationQuantiser(4)
    quantiser(torch.tensor([-1.0, 1.0]), observe=True)
    x = torch.tensor([-3.0, -0.9, 0.0, 0.4, 2.0], requires_grad=True)
    quantiser(x, observe=False).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_state_round_trip():
    quantiser, x = ActivationQuantiser(8), torch.randn(500)
    out = quantiser(x, observe=True)
    other = ActivationQuantiser(8)
    other.load_state_dict(quantiser.state_dict())
    assert torch.equal(other(x, observe=False), out)
    empty = ActivationQuantiser(8)
    empty.load_state_dict(ActivationQuantiser(8).state_dict())
    assert empty.range is None


def test_all_zero_activations():
    out = ActivationQuantiser(8)(torch.zeros(4), observe=True)
    assert torch.equal(out, torch.zeros(4))


def test_scale_before_data_is_refused():
    with pytest.raises(ValueError, match="has seen no data yet; run a training batch"):
        _ = ActivationQuantiser(8).scale


@pytest.mark.parametrize("bits", [1, 17])
def test_activation_bits_out_of_range_are_refused(bits):
    with pytest.raises(ValueError, match=f"activation bits must lie between 2 and 16, got {bits}"):
        ActivationQuantiser(bits)


def test_dtype_of_activations_is_kept():
    out = ActivationQuantiser(8)(torch.rand(64).bfloat16(), observe=True)
    assert out.dtype == torch.bfloat16
    assert math.isfinite(out.sum().item())
