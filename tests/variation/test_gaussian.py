"""The Gaussian and its cut forms against numerical integration and against what they say they are."""

import functools
import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

import lightning_cim as cim
from lightning_cim.variation.gaussian import cumulative, density

DRAWS = 1_000_000
CUTS = (0.5, 1.0, 1.5, 2.0, 3.0)


def expectation(function, c, upper=math.inf):
    """E[function(z)] by quadrature, with the kinks at +-c as interval ends."""
    edges = [-math.inf, *(edge for edge in (-c, c) if edge < upper), upper]
    return sum(quad(lambda z: function(z) * norm.pdf(z), a, b)[0] for a, b in itertools.pairwise(edges))


@functools.cache
def right_censored_mean(c):
    return expectation(lambda z: min(z, c), c)


# The definitions once more, independently of the package: c -> f(z).
FORMS = {
    cim.RightCensoredGaussian: lambda c: lambda z: min(z, c),
    cim.LeftCensoredGaussian: lambda c: lambda z: max(z, -c),
    cim.TwoSidedCensoredGaussian: lambda c: lambda z: max(-c, min(z, c)),
    cim.UnbiasedRightCensoredGaussian: lambda c: lambda z: min(z, c) - right_censored_mean(c),
    cim.ShiftedGaussian: lambda c: lambda z: z + right_censored_mean(c),
    cim.RightTruncatedGaussian: lambda c: lambda z: z,
}
CUT_CLASSES = list(FORMS)
ALL_CLASSES = [cim.Gaussian, *CUT_CLASSES]


def moments(cls, c):
    """Mean and std of f(z) by quadrature of the definition; the truncated form is conditional on z <= c."""
    f = FORMS[cls](c)
    upper, mass = (c, norm.cdf(c)) if cls is cim.RightTruncatedGaussian else (math.inf, 1.0)
    first = expectation(f, c, upper) / mass
    second = expectation(lambda z: f(z) ** 2, c, upper) / mass
    return first, math.sqrt(second - first**2)


def draw(variation, seed=0, draws=DRAWS):
    """Deviations of a weight whose largest magnitude is 1."""
    return variation.sample(torch.ones(draws), torch.Generator().manual_seed(seed)).double()


@pytest.mark.parametrize("cls", CUT_CLASSES)
@pytest.mark.parametrize("c", CUTS)
def test_closed_form_equals_quadrature(cls, c):
    mean, std = moments(cls, c)
    variation = cls(0.3, c)
    assert variation.mean == pytest.approx(0.3 * mean, abs=1e-9)
    assert variation.std == pytest.approx(0.3 * std, abs=1e-9)


def test_normal_functions_equal_scipy():
    for x in (-8.0, -2.0, -0.3, 0.0, 1.0, 5.0):
        assert density(x) == pytest.approx(norm.pdf(x), rel=1e-12)
        assert cumulative(x) == pytest.approx(norm.cdf(x), rel=1e-12)


@pytest.mark.parametrize(
    ("c", "mean", "second", "std"),
    [
        (0.5, -0.1978, 0.5926, 0.7439),
        (1.0, -0.0833, 0.7580, 0.8667),
        (1.5, -0.0293, 0.8892, 0.9425),
        (2.0, -0.0085, 0.9603, 0.9799),
    ],
)
def test_right_censored_table(c, mean, second, std):
    variation = cim.RightCensoredGaussian(1.0, c)
    assert round(variation.mean, 4) == mean
    assert round(variation.unit_moments()[1], 4) == second
    assert round(variation.std, 4) == std


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_sample_moments(cls):
    variation = cls(0.2) if cls is cim.Gaussian else cls(0.2, 1.0)
    sample = draw(variation)
    # Five standard errors of the mean; those of the std are smaller while the kurtosis is below 5.
    error = 5 * variation.std / math.sqrt(DRAWS)
    assert sample.mean().item() == pytest.approx(variation.mean, abs=error)
    assert sample.std().item() == pytest.approx(variation.std, abs=error)


def test_right_censored_at_the_cut():
    sample = draw(cim.RightCensoredGaussian(1.0, 1.0))
    at_cut = (sample == 1.0).double().mean().item()
    assert at_cut == pytest.approx(1 - norm.cdf(1.0), abs=0.002)
    assert (sample == -1.0).sum() == 0
    assert sample.max() == 1.0
    assert sample.mean().item() == pytest.approx(-0.0833, abs=0.003)
    assert sample.std().item() == pytest.approx(0.8667, abs=0.003)


@pytest.mark.parametrize("q", [0.001, 0.01, 0.2, 0.5])
def test_lower_tail_is_gaussian_and_uncut(q):
    """P(dW < Phi^-1(q)) is q for the right-censored form and q / Phi(c) for the truncated one."""
    threshold = norm.ppf(q)
    for variation, probability in (
        (cim.Gaussian(1.0), q),
        (cim.RightCensoredGaussian(1.0, 1.0), q),
        (cim.RightTruncatedGaussian(1.0, 1.0), q / norm.cdf(1.0)),
    ):
        found = (draw(variation) < threshold).double().mean().item()
        assert found == pytest.approx(probability, abs=5 * math.sqrt(probability / DRAWS))


def test_truncated_has_no_mass_at_the_cut():
    sample = draw(cim.RightTruncatedGaussian(1.0, 1.0))
    assert sample.max() <= 1.0
    assert (sample > 1.0 - 1e-6).sum() < 10


def test_left_and_two_sided_cuts():
    left, both = draw(cim.LeftCensoredGaussian(1.0, 1.0)), draw(cim.TwoSidedCensoredGaussian(1.0, 1.0))
    mass = 1 - norm.cdf(1.0)
    assert (left == -1.0).double().mean().item() == pytest.approx(mass, abs=0.002)
    assert left.max() > 3
    for edge in (-1.0, 1.0):
        assert (both == edge).double().mean().item() == pytest.approx(mass, abs=0.002)


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_deviation_is_independent_of_the_weights_sign(cls):
    """The cut is on the signed deviation, never on |dW| or sign(W) dW."""
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    variation = cls(0.2)
    samples = [variation.sample(w, torch.Generator().manual_seed(3)) for w in (weight, -weight, weight.abs())]
    assert torch.equal(samples[0], samples[1])
    assert torch.equal(samples[0], samples[2])


@pytest.mark.parametrize(
    "cls",
    [
        cim.RightCensoredGaussian,
        cim.LeftCensoredGaussian,
        cim.TwoSidedCensoredGaussian,
        cim.UnbiasedRightCensoredGaussian,
        cim.ShiftedGaussian,
    ],
)
def test_infinite_cutoff_is_the_gaussian_bit_for_bit(cls):
    weight = torch.randn(7, 11, generator=torch.Generator().manual_seed(1))
    uncut = cim.Gaussian(0.1).sample(weight, torch.Generator().manual_seed(5))
    assert torch.equal(cls(0.1, math.inf).sample(weight, torch.Generator().manual_seed(5)), uncut)
    assert cls(0.1, math.inf).mean == 0.0
    assert cls(0.1, math.inf).std == pytest.approx(0.1, rel=1e-15)


def test_truncated_with_infinite_cutoff_is_standard_normal():
    sample = draw(cim.RightTruncatedGaussian(1.0, math.inf))
    assert torch.isfinite(sample).all()
    assert sample.mean().item() == pytest.approx(0.0, abs=0.005)
    assert sample.std().item() == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("cls", CUT_CLASSES)
@pytest.mark.parametrize("c", [1e-12, 1e-9, 1e-6, 1e-3, 30.0, 1e6])
def test_extreme_cutoffs_have_finite_moments(cls, c):
    variation = cls(1.0, c)
    assert math.isfinite(variation.mean)
    assert 0 <= variation.std <= 1 + 1e-12


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_sample_has_the_shape_of_the_weight_and_no_gradient(cls):
    weight = torch.nn.Parameter(torch.randn(2, 3, 4, dtype=torch.float64))
    sample = cls(0.1).sample(weight, torch.Generator().manual_seed(0))
    assert sample.shape == weight.shape
    assert sample.dtype == torch.float32
    assert not sample.requires_grad


@pytest.mark.parametrize("cls", ALL_CLASSES)
def test_empty_and_zero_weights(cls):
    generator = torch.Generator().manual_seed(0)
    assert cls(0.1).sample(torch.empty(0, 3), generator).shape == (0, 3)
    assert torch.equal(cls(0.1).sample(torch.zeros(5), generator), torch.zeros(5))


@pytest.mark.parametrize("cls", ALL_CLASSES)
@given(sigma=st.floats(1e-4, 10.0), growth=st.floats(1.01, 10.0))
@settings(max_examples=30, deadline=None)
def test_std_grows_in_proportion_to_sigma(cls, sigma, growth):
    assert cls(sigma * growth).std > cls(sigma).std
    assert cls(sigma).scaled(growth).std == pytest.approx(growth * cls(sigma).std, rel=1e-12)
    assert cls(sigma).scaled(growth).mean == pytest.approx(growth * cls(sigma).mean, rel=1e-12)


@pytest.mark.parametrize("cls", ALL_CLASSES)
@given(seed=st.integers(0, 2**32 - 1), power=st.integers(-10, 10), size=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_scale_equivariance_is_bitwise(cls, seed, power, size):
    """sample(2^k w) == 2^k sample(w): rescaling one layer up and the next down changes nothing."""
    weight = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    base = cls(0.1).sample(weight, torch.Generator().manual_seed(seed))
    scaled = cls(0.1).sample(weight * 2.0**power, torch.Generator().manual_seed(seed))
    assert torch.equal(scaled, base * 2.0**power)


@given(c=st.floats(0.01, 20.0))
@settings(max_examples=50, deadline=None)
def test_relations_between_the_forms(c):
    right, left = cim.RightCensoredGaussian(1.0, c), cim.LeftCensoredGaussian(1.0, c)
    unbiased, shifted = cim.UnbiasedRightCensoredGaussian(1.0, c), cim.ShiftedGaussian(1.0, c)
    assert right.mean == -left.mean <= 0.0
    assert right.std == left.std == pytest.approx(unbiased.std)
    assert unbiased.mean == 0.0
    assert shifted.mean == right.mean
    assert shifted.std == pytest.approx(1.0)
    assert right.std <= 1.0
