import pytest
import torch

from recipes.cryo_em.fsc import fourier_shell_correlation, frequency_radius
from recipes.cryo_em.half_maps import half_map_fsc, randomise_phases
from recipes.cryo_em.masks import soft_mask, sphere

SIZE = 32


def noise(seed):
    return torch.randn(SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def low_passed(volume, cut):
    return torch.fft.ifftn(torch.fft.fftn(volume) * (frequency_radius(SIZE) < cut)).real


def test_amplitudes_and_low_frequencies_stay_and_the_map_is_real():
    volume = noise(0).double()
    scrambled = randomise_phases(volume, start=6)
    before, after = torch.fft.fftn(volume), torch.fft.fftn(scrambled)
    low = frequency_radius(SIZE) < 5.5
    assert torch.allclose(before[low], after[low])
    assert torch.allclose(before.abs(), after.abs())
    assert float(fourier_shell_correlation(volume, scrambled, 1.0).correlation[8:].abs().max()) < 0.2


def test_a_mask_alone_correlates_and_the_correction_takes_it_away():
    """Signal up to shell 6 and independent noise beyond: a tight mask makes the noise seem to correlate."""
    signal = low_passed(noise(0), 6.5)
    signal = 6 * signal / signal.std()
    first, second = (signal + noise(seed) for seed in (1, 2))
    mask = soft_mask(sphere(SIZE, 5), edge=2)
    found = half_map_fsc(first, second, 3.0, mask)
    behind = slice(found.start + 2, 13)
    assert found.masked.correlation[behind].mean() > found.corrected.correlation[behind].mean() + 0.05
    assert abs(float(found.corrected.correlation[behind].mean())) < 0.2
    assert torch.equal(found.corrected.correlation[: found.start + 2], found.masked.correlation[: found.start + 2])
    assert 3 <= found.start <= 9


def test_true_signal_survives_the_correction():
    signal = noise(0)
    first, second = (signal + 0.3 * noise(seed) for seed in (1, 2))
    found = half_map_fsc(first, second, 3.0, soft_mask(sphere(SIZE, 9), edge=3), start=5)
    assert float(found.corrected.correlation[8:].min()) > 0.8
    assert found.resolution() == 6.0


def test_equal_halves_have_nothing_to_randomise():
    found = half_map_fsc(noise(0), noise(0), 3.0, soft_mask(sphere(SIZE, 9)))
    assert found.start == SIZE // 2 + 1
    assert torch.allclose(found.corrected.correlation, torch.ones(SIZE // 2 + 1).double())


@pytest.mark.parametrize("start", [0, 40])
def test_a_start_outside_the_curve_is_refused(start):
    with pytest.raises(ValueError, match="start"):
        half_map_fsc(noise(0), noise(1), 3.0, torch.ones(SIZE, SIZE, SIZE), start=start)
