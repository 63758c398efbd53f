"""Simplex noise against a slow evaluation, pixel by pixel."""

import math

import numpy as np
import pytest
import torch

from recipes.brain_mri.models.simplex import _lattice, simplex_noise


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_corners(x, y):
    """Corner (integer, skewed), offset and weight of the triangle around a point, as the textbook does it."""
    f, g = (math.sqrt(3) - 1) / 2, (3 - math.sqrt(3)) / 6
    i, j = math.floor(x + (x + y) * f), math.floor(y + (x + y) * f)
    corners = []
    x0, y0 = x - (i - (i + j) * g), y - (j - (i + j) * g)
    for a, b in ((0, 0), (1, 0) if x0 > y0 else (0, 1), (1, 1)):
        dx, dy = x0 - a + (a + b) * g, y0 - b + (a + b) * g
        corners.append(((i + a, j + b), (dx, dy), max(0.0, 0.5 - dx * dx - dy * dy) ** 4))
    return corners


def test_the_lattice_is_the_textbooks():
    size, wavelength, place = 9, 2.7, torch.tensor([0.3, 0.8])
    corner, offset, weight = _lattice(size, wavelength, place)
    numbers = {}
    for at in range(size * size):
        slow = slow_corners(at // size / wavelength + 0.3, at % size / wavelength + 0.8)
        for k, (vertex, shift, kernel) in enumerate(slow):
            assert offset[k, at].tolist() == pytest.approx(shift, abs=1e-5)
            assert weight[k, at].item() == pytest.approx(kernel, abs=1e-6)
            assert numbers.setdefault(vertex, int(corner[k, at])) == int(corner[k, at])
    assert len(set(numbers.values())) == len(numbers)


def test_mean_is_0_and_variance_1():
    fields = simplex_noise(400, 32, generator())
    assert fields.mean().abs() < 0.1
    assert fields.var(dim=0).mean().item() == pytest.approx(1, abs=0.1)


def test_it_is_continuous_and_octaves_make_it_rougher():
    rough = [simplex_noise(20, 64, generator(), octaves=n).diff(dim=3).square().mean().item() for n in (1, 3, 6)]
    assert rough[0] < 0.05
    assert rough[0] < rough[1] < rough[2]


def test_power_falls_with_frequency():
    fields = simplex_noise(60, 64, generator())[:, 0].numpy()
    power = (np.abs(np.fft.fft2(fields)) ** 2).mean(0)
    radius = np.hypot(*np.meshgrid(*[np.fft.fftfreq(64) * 64] * 2))
    bands = [power[(radius >= low) & (radius < 2 * low)].mean() for low in (1, 2, 4, 8, 16)]
    assert bands == sorted(bands, reverse=True)


def test_a_field_does_not_depend_on_how_many_follow():
    assert torch.equal(simplex_noise(5, 32, generator())[:2], simplex_noise(2, 32, generator()))
