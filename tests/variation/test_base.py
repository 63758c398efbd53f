"""What all variations share, and the scale of a tensor."""

import dataclasses

import pytest
import torch

import lightning_cim as cim
from lightning_cim.variation.base import max_abs


def sample(variation, weight, seed=0):
    return variation.sample(weight, torch.Generator().manual_seed(seed))


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
    sliced = cim.Gaussian.published("swim", 0.1)
    assert eval(str(sliced), {"Gaussian": cim.Gaussian}) == sliced


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_max_abs(dtype):
    weight = torch.tensor([[0.5, -3.0], [2.0, 0.0]], dtype=dtype)
    assert max_abs(weight).item() == 3.0
    assert max_abs(-weight).item() == 3.0
    assert max_abs(weight).dtype == torch.float32
    assert max_abs(weight[:0]).item() == 0.0


def test_a_variation_is_an_error_of_writing_unless_it_says_otherwise():
    variation, weight, generator = cim.Gaussian(0.1), torch.tensor([2.0, -1.0, 0.5]), torch.Generator().manual_seed(0)
    numbers = variation.draw(weight.shape, generator)
    assert not torch.equal(variation.redraw(weight.shape, numbers, generator), numbers)
    assert variation.written is variation
    assert variation.written_numbers(numbers) is numbers
    assert variation.causes == (variation,)
    assert variation.at(3600.0) is variation.per_device is variation
    assert variation.devices is None
    assert variation.read_std(weight, numbers) is None
    assert variation.variance(weight).item() == pytest.approx((0.1 * 2.0) ** 2)


def test_written_until_good_enough():
    variation, weight = cim.Gaussian(0.1), torch.tensor([2.0, -1.0, 0.5])
    numbers = variation.draw(weight.shape, torch.Generator().manual_seed(0))
    where, error = torch.tensor([True, False, True]), torch.tensor([0.01, 0.02, -0.03])
    found = variation.rewritten(weight, numbers, where, error)
    assert found.tolist() == [error[0], variation.deviation(weight, numbers)[1], error[2]]
