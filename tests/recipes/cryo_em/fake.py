"""Small simulated particles, and a model that knows the truth, for tests of what is done with a fit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recipes.cryo_em.masks import density_mask
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import beads

SIZE = 16


def hinge(count: int = 240, still: bool = False, seed: int = 0, snr: float = 1.0) -> Particles:
    trajectory = beads(frames=9)
    settings = Simulation(count=count, size=SIZE, pixel_size=6.0, snr=snr, shift=1.0, seed=seed)
    return simulate(trajectory.only_first() if still else trajectory, settings)


class Knowing:
    """Encodes each image as (label, label^2, 1), and decodes the true map; `error` blurs what it knows of the label."""

    attends = True

    def __init__(self, particles: Particles, error: float = 0.0, flip: bool = False) -> None:
        self.particles, self.flip = particles, flip
        generator = torch.Generator().manual_seed(3)
        assert particles.labels is not None
        self.known = particles.labels + error * torch.randn(len(particles), generator=generator)
        self.keys = particles.images[slice(None)][:, 0, 0]
        assert particles.truth is not None
        self.support = density_mask(particles.truth.volumes(torch.linspace(0, 1, 9)).mean(0)) > 0

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        rows = (batch["image"][:, 0, 0][:, None] - self.keys).abs().argmin(1)
        x = self.known[rows]
        x = 1 - x if self.flip else x
        return torch.stack([x, x**2, torch.ones_like(x)], 1)[:, None]

    def volumes(self, latents: Tensor) -> Tensor:
        x = latents[:, 0, 0].clamp(0, 1)
        assert self.particles.truth is not None
        return self.particles.truth.volumes(1 - x if self.flip else x) * self.support

    def attention_maps(self, latents: Tensor) -> Tensor:
        return self.volumes(latents)[:, None].expand(-1, 2, -1, -1, -1)
