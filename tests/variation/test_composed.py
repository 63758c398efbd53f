"""Sums of causes: which errors add up, what writing again can repair, and what a sum is as a value."""

import copy
import math
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_cim as cim
from lightning_cim.variation.composed import Composed, Exact
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


def test_composition_adds_independent_deviations():
    weight = torch.randn(500, generator=generator(1))
    first, second = cim.Gaussian(0.03), cim.RightCensoredGaussian(0.04, 1.0)
    source = generator(7)
    by_hand = first.sample(weight, source) + second.sample(weight, source)
    assert torch.equal(sample(first + second, weight, 7), by_hand)


def test_first_part_deviates_as_it_would_alone():
    weight = torch.randn(500)
    alone = sample(cim.Gaussian(0.1), weight)
    assert torch.equal(sample(cim.Gaussian(0.1) + cim.Gaussian(0.0), weight), alone)


def test_parts_are_uncorrelated():
    both = cim.Gaussian(0.03) + cim.Gaussian(0.04)
    assert sample(both, torch.ones(400_000)).std().item() == pytest.approx(0.05, rel=0.01)


def test_moments_of_a_composition():
    parts = cim.RightCensoredGaussian(0.3, 1.0), cim.ShiftedGaussian(0.2, 0.5), cim.Gaussian(0.1)
    both = parts[0] + parts[1] + parts[2]
    assert both.parts == both.causes == parts
    assert both.mean == pytest.approx(sum(part.mean for part in parts))
    assert both.std == pytest.approx(math.hypot(*(part.std for part in parts)))
    torch.testing.assert_close(both.variance(WEIGHT), sum(part.variance(WEIGHT) for part in parts))


def test_sum_is_flat_whatever_the_brackets():
    a, b, c = cim.Gaussian(0.1), cim.Gaussian(0.2), Fade(0.9)
    assert (a + b) + c == a + (b + c) == Composed((a, b, c)) == Composed((Composed((a, b)), c))


@given(factor=st.floats(0.0, 4.0))
@settings(max_examples=25, deadline=None)
def test_scaled_composition(factor):
    both = cim.Gaussian(0.03) + cim.RightCensoredGaussian(0.04)
    assert both.scaled(factor).std == pytest.approx(factor * both.std)
    assert both.scaled(factor).mean == pytest.approx(factor * both.mean)


def test_null_compositions():
    assert (cim.Gaussian(0.0) + cim.ShiftedGaussian(0.0)).is_null
    assert not (cim.Gaussian(0.0) + cim.Gaussian(0.1)).is_null
    assert (cim.Gaussian(0.0) + Full(0.0)).is_null
    assert not (cim.Gaussian(0.0) + Full(0.1)).is_null
    assert not (cim.Gaussian(0.1) + Full(0.0)).is_null


def test_printed_form():
    both = cim.Gaussian(0.1) + Fade(0.9)
    assert str(both) == "Gaussian(sigma=0.1) + Fade(keep=0.9)"
    assert eval(str(both), {"Gaussian": cim.Gaussian, "Fade": Fade}) == both


@pytest.mark.parametrize("parts", [(), (cim.Gaussian(0.1), 0.2)])
def test_composition_of_anything_else_is_refused(parts):
    with pytest.raises(ValueError, match="Composed needs one or more variations"):
        Composed(parts)


def test_adding_a_number_is_a_type_error():
    with pytest.raises(TypeError):
        cim.Gaussian(0.1) + 0.1


def test_a_gaussian_with_more_bits_than_a_table_holds_can_be_added():
    wide = cim.Gaussian(0.1, sigma_ref="lsb", weight_bits=24, device_bits=2)
    assert (wide + cim.Gaussian(0.2)).std == pytest.approx(math.hypot(wide.std, 0.2))


def test_errors_of_two_kinds_of_devices_add_up():
    """Without an effect no device is simulated, so each part may have its own."""
    both = Measured(CELL) + Measured(OTHER, Encoding("offset"))
    source = generator(4)
    by_hand = Measured(CELL).sample(WEIGHT, source) + Measured(OTHER, Encoding("offset")).sample(WEIGHT, source)
    assert torch.equal(sample(both, WEIGHT, 4), by_hand)
    assert both.rewritten(WEIGHT, both.draw(WEIGHT.shape, generator()), WEIGHT > 9, WEIGHT).shape == WEIGHT.shape


def test_written_is_the_sum_without_effects():
    first, second = cim.Gaussian(0.1), cim.RightCensoredGaussian(0.2)
    both = Fade(0.9) + first + Full(0.1) + second + Reading(0.1)
    assert both.written == first + second
    numbers = both.draw(WEIGHT.shape, generator())
    expected = first.deviation(WEIGHT, numbers[1]) + second.deviation(WEIGHT, numbers[3])
    assert torch.equal(both.written.deviation(WEIGHT, both.written_numbers(numbers)), expected)
    torch.testing.assert_close(both.variance(WEIGHT), first.variance(WEIGHT) + second.variance(WEIGHT))
    plain = first + second
    assert plain.written == plain
    assert plain.written_numbers(numbers[1:4:2]) == numbers[1:4:2]


def test_effects_alone_write_without_error():
    for alone in (Full(0.1), Full(0.1) + Fade(0.9)):
        numbers = alone.draw(WEIGHT.shape, generator())
        assert alone.written == Exact()
        assert not alone.written.deviation(WEIGHT, alone.written_numbers(numbers)).any()
        assert not alone.variance(WEIGHT).any()
    exact = Exact()
    assert exact.is_null
    assert exact.scaled(2.0) == exact
    assert exact.draw(WEIGHT.shape, generator()) is None
    assert torch.equal(exact.deviate(WEIGHT, None), WEIGHT)


@pytest.mark.parametrize("part", [cim.Gaussian(0.1), Measured(CELL), Measured(CELL, Encoding("offset", 4, 2))], ids=str)
def test_rewritten_weights_fade_too(part):
    both = part + Fade(0.9)
    numbers = both.draw(WEIGHT.shape, generator())
    where = torch.rand(WEIGHT.shape, generator=generator(1)) < 0.5
    error = 0.05 * torch.randn(WEIGHT.shape, generator=generator(2))
    found, before = both.rewritten(WEIGHT, numbers, where, error), both.deviation(WEIGHT, numbers)
    assert torch.equal(found[~where], before[~where])
    exact = both.rewritten(WEIGHT, numbers, where, torch.zeros_like(error))
    # Whatever the encoding, the error that is left fades with the weight.
    torch.testing.assert_close((found - exact)[where], 0.9 * error[where], rtol=1e-4, atol=1e-6)
    if part == cim.Gaussian(0.1):
        torch.testing.assert_close(exact[where], -0.1 * WEIGHT[where], rtol=1e-4, atol=1e-6)
    nowhere = both.rewritten(WEIGHT, numbers, torch.zeros_like(where), error)
    assert torch.equal(nowhere, before)


def test_what_is_stuck_stays_stuck():
    for variation in (Full(1.0), cim.Gaussian(0.1) + Full(1.0)):
        numbers = variation.draw(WEIGHT.shape, generator())
        everywhere = torch.ones_like(WEIGHT, dtype=torch.bool)
        found = variation.rewritten(WEIGHT, numbers, everywhere, torch.zeros_like(WEIGHT))
        torch.testing.assert_close(found, -WEIGHT)  # both devices of a pair at g_max stand for 0


def test_rewritten_without_effects():
    both = cim.Gaussian(0.1) + cim.Gaussian(0.2)
    numbers = both.draw(WEIGHT.shape, generator())
    found = both.rewritten(WEIGHT, numbers, WEIGHT > 0.5, 0.1 * WEIGHT)
    assert torch.equal(found, torch.where(WEIGHT > 0.5, 0.1 * WEIGHT, both.deviation(WEIGHT, numbers)))


def test_another_write_of_the_same_devices():
    both = Measured(CELL) + Full(0.1)
    numbers = both.draw(WEIGHT.shape, generator())
    again = both.redraw(WEIGHT.shape, numbers, generator(5))
    assert again[1] is numbers[1]
    assert again[0].shape == numbers[0].shape
    assert not torch.equal(again[0], numbers[0])
    alone = Full(0.1).draw(WEIGHT.shape, generator())
    assert Full(0.1).redraw(WEIGHT.shape, alone, generator(5)) is alone


def test_time_and_warm_up_reach_every_part():
    both = cim.Gaussian(0.1) + Fade(0.5) + Full(0.2)
    assert both.at(3.0) == cim.Gaussian(0.1) + Fade(0.125) + Full(0.2)
    assert both.scaled(0.5) == cim.Gaussian(0.05) + Fade(0.75) + Full(0.1)
    aging = Measured.preset("rram-wan2022") + Fade(1.0)
    assert aging.at(86400.0).parts[0] == Measured.preset("rram-wan2022", time="1 day").per_device


@pytest.mark.parametrize(
    "variation",
    [
        Full(0.1),
        Exact(),
        cim.Gaussian(0.1) + Fade(0.9),
        Measured(CELL, Encoding("offset", 4, 2)) + Full(0.1) + Reading(0.1),
    ],
    ids=str,
)
def test_is_a_plain_frozen_value(variation):
    twin = pickle.loads(pickle.dumps(variation))
    assert twin == copy.deepcopy(variation) == variation
    assert hash(twin) == hash(variation)
    assert str(twin) == str(variation)
    assert twin + cim.Gaussian(0.1) != variation
    assert torch.equal(sample(twin, WEIGHT), sample(variation, WEIGHT))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_types_and_degenerate_weights(dtype):
    both = Measured(CELL, Encoding("offset", 4, 2)) + Full(0.1) + Fade(0.9)
    found = sample(both, WEIGHT.to(dtype, copy=True).requires_grad_())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert not sample(both, torch.zeros(5, dtype=dtype)).any()
    assert sample(both, torch.empty(0, 3, dtype=dtype)).shape == (0, 3)
    assert sample(both, torch.tensor(-2.0, dtype=dtype)).shape == ()
    broken = both.deviate(torch.tensor([1.0, math.nan]), both.draw(torch.Size((2,)), generator()))
    assert broken.isnan()[1]


def test_gradient_is_straight_through():
    both = Measured(CELL) + Full(0.1) + cim.LevelGaussian.preset("RRAM4", 0.1)
    weight = WEIGHT.clone().requires_grad_()
    both.deviate(weight, both.draw(weight.shape, generator())).sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


@pytest.mark.parametrize(
    "variation", [Full(0.2), cim.Gaussian(0.05) + Fade(0.9), Measured(CELL) + Full(0.1) + Fade(0.9)], ids=str
)
def test_lies_on_a_chip(variation):
    model = nn.Linear(6, 4)
    clean, inputs, outputs = model.weight.detach().clone(), torch.ones(1, 6), []
    population = cim.ChipPopulation(model, variation)
    for index in (0, 0, 1):
        with cim.on_chip(model, population[index]):
            outputs.append(model(inputs))
            held = model.weight.detach()
        torch.testing.assert_close(held - clean, population[index].deviation("weight", clean))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])
    assert torch.equal(model.weight, clean)
    twin = pickle.loads(pickle.dumps(population[1]))
    assert torch.equal(twin.deviation("weight", clean), population[1].deviation("weight", clean))
