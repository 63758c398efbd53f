import pytest
import torch

from recipes.cryo_em.pose_bound import pose_bound
from recipes.cryo_em.simulate import Simulation, clean_images, simulate
from recipes.cryo_em.structures import beads


@pytest.fixture(scope="module")
def particles():
    return simulate(beads(frames=3), Simulation(count=30, size=16, pixel_size=6.0, snr=1.0))


def test_without_signal_nothing_is_learned(particles):
    assert pose_bound(particles, 1e-9, 2.0, 1.0) == pytest.approx((2.0, 1.0), rel=1e-3)


def test_with_much_signal_errors_fall_with_the_root_of_the_ratio(particles):
    one, four = pose_bound(particles, 1e3, 90.0, 100.0), pose_bound(particles, 4e3, 90.0, 100.0)
    assert [a / b for a, b in zip(one, four, strict=True)] == pytest.approx([2, 2], rel=0.01)


def test_shifts_alone_are_known_as_well_as_a_matched_filter_finds_them(particles):
    """With rotations known, the bound is that of an image's gradient, here taken from its Fourier transform."""
    rows, snr = torch.arange(30), 50.0
    images = clean_images(particles, rows).double()
    frequencies = torch.fft.fftfreq(16, dtype=torch.float64)
    spectra = torch.fft.fft2(images)
    along = [torch.fft.ifft2(2j * torch.pi * f * spectra).real for f in (frequencies[None, :], frequencies[:, None])]
    jacobian = torch.stack(along, 1).flatten(2)
    left = torch.linalg.inv(jacobian @ jacobian.mT * snr / images.var()).diagonal(dim1=1, dim2=2).mean(0).sum().sqrt()
    assert pose_bound(particles, snr, 1e-6, 100.0)[1] == pytest.approx(float(left), rel=0.05)
