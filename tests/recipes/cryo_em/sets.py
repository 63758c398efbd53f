"""Small data sets for tests."""

from __future__ import annotations

import torch

from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import TensorStack


def random_particles(count: int = 7, size: int = 8, seed: int = 0, with_ctf: bool = True) -> Particles:
    """Noise with every kind of parameter, each different."""
    g = torch.Generator().manual_seed(seed)
    u = 9000 + 9000 * torch.rand(count, generator=g)
    known = CTFParameters.of(
        count,
        defocus_u=u,
        defocus_v=u - 900 * torch.rand(count, generator=g),
        angle=180 * torch.rand(count, generator=g),
        voltage=300.0,
        cs=2.7,
        amplitude_contrast=0.07,
        phase_shift=90 * torch.rand(count, generator=g),
    )
    return Particles(
        TensorStack(torch.randn(count, size, size, generator=g)),
        random_rotations(count, g),
        torch.randn(count, 2, generator=g),
        known if with_ctf else None,
        2.5,
    )


def assert_same(found: Particles, expected: Particles, atol: float = 1e-5) -> None:
    """All but the images."""
    torch.testing.assert_close(found.rotations, expected.rotations, atol=atol, rtol=0)
    torch.testing.assert_close(found.shifts, expected.shifts, atol=atol, rtol=0)
    assert abs(found.pixel_size - expected.pixel_size) < 1e-5
    assert (found.ctf is None) == (expected.ctf is None)
    if found.ctf is not None and expected.ctf is not None:
        for name, value in expected.ctf.items():
            torch.testing.assert_close(getattr(found.ctf, name), value, atol=1e-4, rtol=1e-6, msg=name)
