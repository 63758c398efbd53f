"""Composition, the shared interface and the scale of a tensor."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_cim as cim
from lightning_cim.variation.base import max_abs


def sample(variation, weight, seed=0):
    return variation.sample(weight, torch.Generator().manual_seed(seed))


def test_composition_adds_independent_deviations():
    weight = torch.randn(500, generator=torch.Generator().manual_seed(1))
    first, second = cim.Gaussian(0.03), cim.RightCensoredGaussian(0.04, 1.0)
    generator = torch.Generator().manual_seed(7)
    by_hand = first.sample(weight, generator) + second.sample(weight, generator)
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
    assert both.parts == parts
    assert both.mean == pytest.approx(sum(part.mean for part in parts))
    assert both.std == pytest.approx(math.hypot(*(part.std for part in parts)))


def test_sum_is_flat_whatever_the_brackets():
    a, b, c = cim.Gaussian(0.1), cim.Gaussian(0.2), cim.Gaussian(0.3)
    assert (a + b) + c == a + (b + c) == cim.Composed((a, b, c))


@given(factor=st.floats(0.0, 4.0))
@settings(max_examples=25, deadline=None)
def test_scaled_composition(factor):
    both = cim.Gaussian(0.03) + cim.RightCensoredGaussian(0.04)
    assert both.scaled(factor).std == pytest.approx(factor * both.std)
    assert both.scaled(factor).mean == pytest.approx(factor * both.mean)


def test_scaled_multiplies_every_deviation():
    weight = torch.randn(100)
    for variation in (cim.Gaussian(0.1), cim.ShiftedGaussian(0.1), cim.Gaussian(0.1) + cim.LeftCensoredGaussian(0.2)):
        torch.testing.assert_close(sample(variation.scaled(0.5), weight), 0.5 * sample(variation, weight))


def test_scaled_keeps_the_convention():
    variation = cim.RightCensoredGaussian(0.1, 1.5, sigma_ref="lsb", weight_bits=8, device_bits=2)
    assert variation.scaled(2.0) == dataclasses.replace(variation, sigma=0.2)


def test_null_variations():
    assert cim.Gaussian(0.0).is_null
    assert not cim.Gaussian(1e-9).is_null
    assert (cim.Gaussian(0.0) + cim.ShiftedGaussian(0.0)).is_null
    assert not (cim.Gaussian(0.0) + cim.Gaussian(0.1)).is_null
    assert cim.Gaussian(0.1).scaled(0.0).is_null


@pytest.mark.parametrize(
    "variation", [cim.Gaussian(0.1), cim.RightTruncatedGaussian(0.1), cim.Gaussian(0.1) + cim.Gaussian(0.2)]
)
def test_variations_are_frozen_and_hashable(variation):
    field = dataclasses.fields(variation)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(variation, field, 0.5)
    assert hash(variation) == hash(dataclasses.replace(variation))


def test_printed_form_is_the_constructor_call():
    assert str(cim.Gaussian(0.1)) == "Gaussian(sigma=0.1)"
    assert str(cim.RightCensoredGaussian(0.1, 1.5)) == "RightCensoredGaussian(sigma=0.1, cutoff=1.5)"
    assert str(cim.Gaussian(0.1) + cim.Gaussian(0.2)) == "Gaussian(sigma=0.1) + Gaussian(sigma=0.2)"
    sliced = cim.Gaussian.published("swim", 0.1)
    assert eval(str(sliced), {"Gaussian": cim.Gaussian}) == sliced


@pytest.mark.parametrize("parts", [(), (cim.Gaussian(0.1), 0.2)])
def test_composition_of_anything_else_is_refused(parts):
    with pytest.raises(ValueError, match="Composed needs one or more variations"):
        cim.Composed(parts)


def test_adding_a_number_is_a_type_error():
    with pytest.raises(TypeError):
        cim.Gaussian(0.1) + 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_max_abs(dtype):
    weight = torch.tensor([[0.5, -3.0], [2.0, 0.0]], dtype=dtype)
    assert max_abs(weight).item() == 3.0
    assert max_abs(-weight).item() == 3.0
    assert max_abs(weight).dtype == torch.float32
    assert max_abs(weight[:0]).item() == 0.0
