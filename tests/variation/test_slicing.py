"""The three meanings of sigma against a simulation of every device."""

import pytest
import torch

import lightning_cim as cim
from lightning_cim.variation.gaussian import slice_factor

DRAWS = 1_000_000


def sliced_std(sigma_ref, weight_bits, device_bits, draws):
    """Std of the weight error over sigma max|W|, from an error on each device summed with its place value."""
    generator = torch.Generator().manual_seed(0)
    error = torch.zeros(draws, dtype=torch.float64)
    for j in range(weight_bits // device_bits):
        per_device = torch.randn(draws, generator=generator, dtype=torch.float64)
        if sigma_ref == "full_scale":  # relative to a device's range of 2^K - 1 levels
            per_device *= 2**device_bits - 1
        error += 2 ** (j * device_bits) * per_device
    # The largest weight is 2^M - 1 steps; SWIM divides by 2^M.
    full = 2**weight_bits - 1 if sigma_ref == "full_scale" else 2**weight_bits
    return (error / full).std().item()


@pytest.mark.parametrize("sigma_ref", ["full_scale", "lsb"])
@pytest.mark.parametrize(("weight_bits", "device_bits"), [(8, 2), (8, 1), (6, 2), (4, 4), (6, 3), (1, 1)])
def test_collapsed_gaussian_agrees_with_sliced_devices(sigma_ref, weight_bits, device_bits):
    slow = sliced_std(sigma_ref, weight_bits, device_bits, 200_000)
    assert slice_factor(sigma_ref, weight_bits, device_bits) == pytest.approx(slow, rel=0.02)


@pytest.mark.parametrize(
    ("sigma_ref", "weight_bits", "device_bits", "expected"),
    [
        ("full_scale", 8, 1, 0.5796),
        ("full_scale", 8, 2, 0.7776),
        ("full_scale", 6, 2, 0.7868),
        ("full_scale", 4, 4, 1.0),
        ("lsb", 8, 1, 0.5773),
        ("lsb", 8, 2, 0.2582),
        ("lsb", 6, 2, 0.2582),
        ("lsb", 4, 4, 0.0625),
    ],
)
def test_published_table(sigma_ref, weight_bits, device_bits, expected):
    assert round(slice_factor(sigma_ref, weight_bits, device_bits), 4) == expected


@pytest.mark.parametrize(
    ("sigma_ref", "weight_bits", "device_bits", "expected"),
    [("full_scale", 8, 2, 0.7776), ("lsb", 8, 1, 0.5773), ("lsb", 8, 2, 0.2582), ("full_scale", 4, 4, 1.0)],
)
def test_sampled_std_of_each_convention(sigma_ref, weight_bits, device_bits, expected):
    variation = cim.Gaussian(0.1, sigma_ref=sigma_ref, weight_bits=weight_bits, device_bits=device_bits)
    weight = torch.full((DRAWS,), -2.0)
    sample = variation.sample(weight, torch.Generator().manual_seed(0))
    assert sample.double().std().item() / (0.1 * 2.0) == pytest.approx(expected, rel=0.005)
    assert variation.std == pytest.approx(0.1 * expected, abs=1e-5)


def test_published_presets():
    assert cim.Gaussian.published("neft", 0.1) == cim.Gaussian(
        0.1, sigma_ref="full_scale", weight_bits=8, device_bits=2
    )
    assert cim.Gaussian.published("swim", 0.1) == cim.Gaussian(0.1, sigma_ref="lsb", weight_bits=8, device_bits=1)
    assert cim.Gaussian.published("trice", 0.1) == cim.Gaussian(0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma_ref": "lbs"}, r"sigma_ref must be 'weight', 'full_scale' or 'lsb', got 'lbs'"),
        ({"sigma_ref": "lsb"}, r"needs weight_bits and device_bits"),
        ({"weight_bits": 8}, r"no effect with sigma_ref='weight'"),
        ({"sigma_ref": "lsb", "weight_bits": 8, "device_bits": 3}, r"weight_bits=8 must be a positive multiple"),
        ({"sigma_ref": "lsb", "weight_bits": 0, "device_bits": 1}, r"weight_bits=0 must be a positive multiple"),
        ({"sigma_ref": "lsb", "weight_bits": 8, "device_bits": 0}, r"device_bits=0"),
    ],
)
def test_meaningless_conventions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        cim.Gaussian(0.1, **options)


def test_unknown_paper_is_refused():
    with pytest.raises(ValueError, match=r"paper must be one of \['neft', 'swim', 'trice'\], got 'nefd'"):
        cim.Gaussian.published("nefd", 0.1)
