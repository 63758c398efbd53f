"""The true states of simulated particles, and scores of anybody's maps against them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recipes.cryo_em.masks import soft_mask
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.scores import StateScores, auroc, motion, motion_amplitude, score_states, spearman
from recipes.cryo_em.states import STATES, bin_middles

EDGE = 2.0
"""Voxels of the soft edge around the mobile region: maps of 32 voxels leave no room for more."""


@dataclass(frozen=True)
class Judge:
    """True maps of K states.

    Attributes:
        labels: (K,), in [0, 1].
        volumes: (K, D, D, D).
        mobile: Bool (D, D, D): where density changes.
        pixel_size: Angstrom.
        mask: (D, D, D) in [0, 1] on reconstructed maps, the same for every method that is compared.
    """

    labels: Tensor
    volumes: Tensor
    mobile: Tensor
    pixel_size: float
    mask: Tensor

    @classmethod
    def of(cls, particles: Particles, mask: Tensor, labels: Tensor | int = STATES) -> Judge:
        """The true maps of simulated particles.

        Args:
            particles: With their truth.
            mask: (D, D, D), of any kind; a model's ``support`` for instance.
            labels: (K,), or how many bins of [0, 1] whose middles are taken.

        Raises:
            ValueError: Particles without truth.
        """
        if particles.truth is None:
            raise ValueError("there is no truth to judge by: these particles were not simulated")
        at = bin_middles(labels) if isinstance(labels, int) else labels
        volumes, mobile = particles.truth.volumes(at.float()).float().cpu(), particles.truth.mobile.cpu()
        return cls(at, volumes, mobile, particles.pixel_size, mask.float().cpu())

    def score(self, volumes: Tensor) -> StateScores:
        """Scores of maps (K, D, D, D) of the same states."""
        return score_states(volumes, self.volumes, self.pixel_size, self.mask, self.mobile_mask)

    @cached_property
    def mobile_mask(self) -> Tensor | None:
        """The mobile region with a soft edge, float32 (D, D, D); None where nothing moves."""
        return soft_mask(self.mobile, edge=EDGE) if self.mobile.any() else None

    @property
    def amplitude(self) -> float:
        """True amplitude of motion."""
        return motion_amplitude(self.volumes)

    @property
    def flexibility(self) -> Tensor:
        """Standard deviation of the true maps over states, (D, D, D)."""
        return spread(self.volumes)

    def locates(self, map_: Tensor) -> dict[str, float | None]:
        """How well a map (D, D, D) tells where density moves, over the voxels of the mask.

        Returns:
            ``auroc`` for the mobile voxels (None where all or none are), and ``spearman`` with the true spread.
        """
        within = self.mask > 0
        mobile, values = self.mobile[within], map_.cpu()[within]
        mixed = bool(mobile.any()) and not bool(mobile.all())
        return {
            "auroc": auroc(values, mobile) if mixed else None,
            "spearman": spearman(values, self.flexibility[within]),
        }


def spread(volumes: Tensor) -> Tensor:
    """Standard deviation of maps (K, D, D, D) over states, float32 (D, D, D)."""
    return motion(volumes).square().mean(0).sqrt().float()


def shuffled(labels: Tensor, seed: int = 0) -> Tensor:
    """Labels (n,) in random order: what scores such labels earn is noise."""
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
