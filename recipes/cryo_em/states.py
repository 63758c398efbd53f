"""From a latent for every image to a few states: by true label, along principal components, or by clusters.

Latents are (n, ...); distances and components are those of the flattened latents (n, d).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

STATES = 10
NEAREST = 100
"""Particles whose latents are averaged for one state."""


@dataclass(frozen=True)
class PrincipalComponents:
    """Principal components of latents.

    Attributes:
        mean: (d,).
        axes: (k, d), orthonormal, by falling variance.
        scores: (n, k), coordinates of every image.
        explained: (k,), share of the variance of each.
    """

    mean: Tensor
    axes: Tensor
    scores: Tensor
    explained: Tensor

    def flipped(self, axis: int = 0) -> PrincipalComponents:
        """One axis the other way round; its sign means nothing."""
        sign = torch.ones(len(self.axes), dtype=self.axes.dtype)
        sign[axis] = -1
        return PrincipalComponents(self.mean, self.axes * sign[:, None], self.scores * sign, self.explained)


def principal_components(latents: Tensor, components: int = 2) -> PrincipalComponents:
    """PCA of latents.

    Args:
        latents: (n, ...), n >= 2.
        components: At most; fewer where latents have fewer numbers.

    Returns:
        In float64. The sign of each axis makes its largest element positive.

    Raises:
        ValueError: Fewer than two latents, or values that are not finite.
    """
    flat = latents.flatten(1).double().cpu()
    if len(flat) < 2 or not flat.isfinite().all():
        raise ValueError(f"principal components want at least 2 finite latents, got {tuple(latents.shape)}")
    mean = flat.mean(0)
    # The covariance is small (d x d); its eigenvectors are those of the SVD and cost nothing with many images.
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    axes = vectors.flip(1).T[:components]
    variance = values.flip(0).clamp_min(0)
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    axes = axes * torch.where(largest < 0, -1.0, 1.0)
    total = float(variance.sum())
    explained = variance[:components] / total if total > 0 else torch.zeros(len(axes), dtype=torch.float64)
    return PrincipalComponents(mean, axes, (flat - mean) @ axes.T, explained)


@dataclass(frozen=True)
class States:
    """A few places in latent space.

    Attributes:
        latents: (K, ...), each the mean over some images.
        members: Of each state, indices of those images.
        positions: (K,), where the states lie on the coordinate that ordered them: true label, or principal component.
    """

    latents: Tensor
    members: list[Tensor]
    positions: Tensor


def states_at(latents: Tensor, coordinate: Tensor, positions: Tensor, nearest: int = NEAREST) -> States:
    """States at given places of a coordinate that every image has.

    Args:
        latents: (n, ...).
        coordinate: (n,).
        positions: (K,).
        nearest: Images that are averaged, nearest in the coordinate; at most n.

    Raises:
        ValueError: Sizes that differ, or no image to average.
    """
    if coordinate.shape != latents.shape[:1]:
        raise ValueError(f"{len(latents)} latents want one coordinate each, got {tuple(coordinate.shape)}")
    if nearest < 1:
        raise ValueError(f"nearest={nearest}: a state wants at least one image")
    coordinate, positions = coordinate.double().cpu(), positions.double().cpu()
    members = [
        (coordinate - at).abs().topk(min(nearest, len(latents)), largest=False, sorted=True).indices for at in positions
    ]
    return States(torch.stack([latents[index].mean(0) for index in members]), members, positions)


def label_states(latents: Tensor, labels: Tensor, count: int = STATES, nearest: int = NEAREST) -> States:
    """States at the middles of ``count`` equal bins of the true label in [0, 1]."""
    return states_at(latents, labels, bin_middles(count), nearest)


def bin_middles(count: int) -> Tensor:
    """Middles of ``count`` equal bins of [0, 1], float64.

    Raises:
        ValueError: Fewer than one.

    Example:
        >>> bin_middles(4)
        tensor([0.1250, 0.3750, 0.6250, 0.8750], dtype=torch.float64)
    """
    if count < 1:
        raise ValueError(f"{count} states: want at least 1")
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def traversal(
    latents: Tensor, components: PrincipalComponents, count: int = STATES, axis: int = 0, nearest: int = NEAREST
) -> States:
    """States along a principal component, at equally spaced quantiles, each a mean over images that are there.

    Means of images stay where the data are; a straight line through latent space leaves them.

    Args:
        latents: (n, ...).
        components: Of these latents.
        count: Of states.
        axis: Which component, from 0.
        nearest: Images that are averaged.

    Raises:
        ValueError: No such component.
    """
    if not 0 <= axis < components.scores.shape[1]:
        raise ValueError(f"component {axis + 1} was asked for; there are {components.scores.shape[1]}")
    coordinate = components.scores[:, axis]
    return states_at(latents, coordinate, torch.quantile(coordinate, bin_middles(count)), nearest)


def cluster(latents: Tensor, count: int, seed: int = 0, rounds: int = 100) -> States:
    """Clusters by k-means (k-means++ start, Lloyd's rounds), ordered along the first principal component.

    Args:
        latents: (n, ...).
        count: Of clusters, 1 to n.
        seed: Of the start.
        rounds: At most.

    Returns:
        Latents are the clusters' means, positions those on the component.

    Raises:
        ValueError: No such number of clusters.
    """
    flat = latents.flatten(1).double().cpu()
    if not 1 <= count <= len(flat):
        raise ValueError(f"{count} clusters of {len(flat)} images: want 1 to {len(flat)}")
    generator = torch.Generator().manual_seed(seed)
    centres = flat[torch.randint(len(flat), (1,), generator=generator)]
    while len(centres) < count:
        gap = torch.cdist(flat, centres).amin(1).square()
        chance = gap if gap.sum() > 0 else torch.ones_like(gap)
        centres = torch.cat([centres, flat[torch.multinomial(chance, 1, generator=generator)]])
    owner = torch.full((len(flat),), -1)
    for _ in range(rounds):
        nearest = torch.cdist(flat, centres).argmin(1)
        if torch.equal(nearest, owner):
            break
        owner = nearest
        centres = torch.stack([flat[owner == k].mean(0) if (owner == k).any() else centres[k] for k in range(count)])
    components = principal_components(flat, 1) if len(flat) > 1 else None
    position = (centres - components.mean) @ components.axes[0] if components else torch.zeros(count).double()
    order = [int(k) for k in position.argsort() if bool((owner == k).any())]  # equal images make empty clusters
    members = [(owner == k).nonzero()[:, 0] for k in order]
    return States(torch.stack([latents[index].mean(0) for index in members]), members, position[order])
