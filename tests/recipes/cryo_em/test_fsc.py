import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.cryo_em.fsc import ShellCorrelation, fourier_shell_correlation, frequency_radius


def noise(size, seed):
    return torch.randn(size, size, size, generator=torch.Generator().manual_seed(seed))


def by_loop(first, second, bins):
    """Straight from the definition, one frequency at a time."""
    size = len(first)
    spectra = [torch.fft.fftn(volume.double()).tolist() for volume in (first, second)]
    half = size // 2
    count = half + 1 if bins == "rounded" else half
    sums = [[0.0, 0.0, 0.0] for _ in range(count)]
    for z in range(size):
        for y in range(size):
            for x in range(size):
                k = [i if i < half else i - size for i in (z, y, x)]
                radius = math.sqrt(sum(i * i for i in k))
                shell = math.floor(radius + 0.5) if bins == "rounded" else math.floor(radius) + 1
                if shell >= count:
                    continue
                a, b = (spectrum[z][y][x] for spectrum in spectra)
                for i, value in enumerate(((a * b.conjugate()).real, abs(a) ** 2, abs(b) ** 2)):
                    sums[shell][i] += value
    return [1.0] + [cross / math.sqrt(one * two) for cross, one, two in sums[1:]]


@pytest.mark.parametrize("bins", ["rounded", "floor"])
@pytest.mark.parametrize("size", [8, 10])
def test_equals_the_definition(bins, size):
    first = noise(size, 0)
    second = first + noise(size, 1)
    found = fourier_shell_correlation(first, second, 2.0, bins=bins)
    assert found.correlation.tolist() == pytest.approx(by_loop(first, second, bins), abs=1e-9)
    assert found.frequency[1] == pytest.approx(1 / (2.0 * size))


def test_floor_is_cryodrgns_way():
    """Shell i holds i - 1 <= r < i, i = 1 .. D/2 - 1, on a grid whose centre is D//2; the curve begins with 1."""
    size = 12
    first, second = noise(size, 0), noise(size, 0) + noise(size, 1)
    line = torch.arange(size) - size // 2
    radius = (line[:, None, None] ** 2 + line[None, :, None] ** 2 + line**2).double().sqrt()
    spectra = [torch.fft.fftshift(torch.fft.fftn(volume.double())) for volume in (first, second)]
    curve = [1.0]
    for i in range(1, size // 2):
        a, b = (spectrum[(radius >= i - 1) & (radius < i)] for spectrum in spectra)
        curve.append(float((a * b.conj()).sum().real / (a.abs().square().sum() * b.abs().square().sum()).sqrt()))
    found = fourier_shell_correlation(first, second, 1.0, bins="floor").correlation
    assert len(found) == size // 2
    assert found.tolist() == pytest.approx(curve, abs=1e-9)


def test_agrees_with_torch_fourier_shell_correlation():
    """It shares each frequency between two shells, we do not: equal where only whole radii are present."""
    oracle = pytest.importorskip("torch_fourier_shell_correlation")
    size = 16
    whole = frequency_radius(size).frac() == 0
    first, second = (
        torch.fft.ifftn(torch.fft.fftn(volume) * whole).real for volume in (noise(size, 0), noise(size, 1))
    )
    second = second + 0.7 * first
    theirs = oracle.fourier_correlation(
        torch.fft.fftn(first), torch.fft.fftn(second), (size,) * 3, whole & (frequency_radius(size) <= 8), rfft=False
    )
    ours = fourier_shell_correlation(first, second, 1.0).correlation
    assert ours[1:].tolist() == pytest.approx(theirs[1:].tolist(), abs=1e-4)


def test_a_map_with_itself_and_its_negative():
    volume = noise(16, 0)
    assert fourier_shell_correlation(volume, 5 * volume, 1.0).correlation.tolist() == pytest.approx([1.0] * 9)
    assert fourier_shell_correlation(volume, -volume, 1.0).correlation[1:].tolist() == pytest.approx([-1.0] * 8)


def test_independent_noise_does_not_correlate():
    curve = fourier_shell_correlation(noise(32, 0), noise(32, 1), 1.0).correlation
    shells = (frequency_radius(32) + 0.5).floor().flatten().long().bincount()[: len(curve)]
    # Half of a shell's frequencies are independent: the deviation is 1/sqrt(n/2) in each.
    assert bool((curve[1:].abs() < 4.5 / (shells[1:] / 2).sqrt()).all())
    assert abs(float(curve[8:].mean())) < 0.02


def test_maps_in_a_batch_are_compared_pair_by_pair():
    first, second = torch.stack([noise(8, 0), noise(8, 1)]), noise(8, 2)
    together = fourier_shell_correlation(first, second, 1.0)
    for index in range(2):
        alone = fourier_shell_correlation(first[index], second, 1.0)
        assert torch.allclose(together.correlation[index], alone.correlation)
        assert float(together.auc[index]) == pytest.approx(float(alone.auc))
        assert float(together.resolution()[index]) == pytest.approx(float(alone.resolution()))


def test_a_mask_multiplies_both():
    first, second, mask = noise(8, 0), noise(8, 1), torch.rand(8, 8, 8)
    masked = fourier_shell_correlation(first, second, 1.0, mask)
    assert torch.allclose(masked.correlation, fourier_shell_correlation(first * mask, second * mask, 1.0).correlation)


def test_an_empty_shell_does_not_correlate():
    flat = torch.ones(8, 8, 8)
    assert fourier_shell_correlation(flat, noise(8, 0), 1.0).correlation[1:].abs().max() == 0


def curve(values, pixel_size=1.0):
    values = torch.tensor(values)
    frequency = torch.arange(values.shape[-1], dtype=torch.float64) * 0.5 / (values.shape[-1] - 1) / pixel_size
    return ShellCorrelation(frequency, values, pixel_size)


def test_first_and_last_crossing_of_a_curve_that_comes_back():
    found = curve([1.0, 0.8, 0.2, 0.6, 0.1], pixel_size=3.0)
    step = found.frequency[1]
    assert float(found.resolution(0.5, "first")) == pytest.approx(1 / float(step * 1.5))
    assert float(found.resolution(0.5, "last")) == pytest.approx(1 / float(step * 3))


def test_a_curve_that_stays_above_reaches_nyquist():
    found = curve([1.0, 0.9, 0.8], pixel_size=3.0)
    assert float(found.resolution(0.5)) == float(found.resolution(0.5, "last")) == 6.0


def test_a_curve_that_is_nowhere_above():
    found = curve([1.0, 0.1, 0.0])
    assert float(found.resolution(0.5, "last")) == math.inf
    assert math.isfinite(float(found.resolution(0.5)))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=9), st.floats(0.05, 0.95))
def test_first_crossing_is_no_better_than_the_last_plus_a_shell(values, threshold):
    found = curve([1.0, *values])
    first, last = (float(1 / found.resolution(threshold, crossing)) for crossing in ("first", "last"))
    assert 0 < first <= last + float(found.frequency[1]) + 1e-9
    assert first <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: fourier_shell_correlation(v, v[:4], 1.0), "want"),
        (lambda v: fourier_shell_correlation(v, v, 1.0, bins="square"), "bins"),
        (lambda v: fourier_shell_correlation(v, v, 1.0).resolution(1.5), "threshold"),
        (lambda v: fourier_shell_correlation(v, v, 1.0).resolution(crossing="middle"), "crossing"),
    ],
)
def test_bad_input_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        change(noise(8, 0))
