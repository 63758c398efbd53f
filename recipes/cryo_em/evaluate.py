"""All scores of one model on one set of particles.

Only ``encode``, ``volumes``, ``attention_maps`` and ``support`` of a model are used; `homogeneous.Homogeneous` has them
too, and maps of other programs are scored by the same `judge.Judge` (see `cryodrgn_compare`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from recipes.cryo_em.batches import batch_of
from recipes.cryo_em.judge import Judge, shuffled, spread
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.scores import StateScores, motion_amplitude, spearman
from recipes.cryo_em.states import (
    NEAREST,
    STATES,
    PrincipalComponents,
    States,
    bin_middles,
    cluster,
    label_states,
    principal_components,
    traversal,
)

BATCH = 64
"""Images encoded at once."""
DECODED = 4
"""Maps decoded at once."""
SHUFFLES = 5
"""Random orders of the shuffled control."""


class Heterogeneous(Protocol):
    """What a model needs for being evaluated."""

    support: Tensor

    def encode(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Latents (b, N, C) of a batch of `batches.batch_of`."""

    def volumes(self, latents: Tensor) -> Tensor:
        """Maps (b, D, D, D)."""

    def attention_maps(self, latents: Tensor) -> Tensor:
        """(b, N, D, D, D)."""


@dataclass(frozen=True)
class Options:
    """What is evaluated.

    Attributes:
        states: States along the true label, along the first component, and clusters.
        nearest: Images whose latents are averaged for a state.
        seed: Of clusters and of the shuffled control.

    Raises:
        ValueError: Numbers out of range.
    """

    states: int = STATES
    nearest: int = NEAREST
    seed: int = 0

    def __post_init__(self) -> None:
        if self.states < 2 or self.nearest < 1:
            raise ValueError(f"states={self.states} (at least 2), nearest={self.nearest} (at least 1)")


@dataclass(frozen=True)
class Decoded:
    """States and their maps.

    Attributes:
        states: K places in latent space.
        volumes: (K, D, D, D).
        truth: The true maps of the same states, where known.
        scores: Against those.
    """

    states: States
    volumes: Tensor
    truth: Tensor | None = None
    scores: StateScores | None = None


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a set of particles.

    Attributes:
        latents: (n, N, C).
        components: Of the latents; where labels are known the first grows with them.
        path: States along the first component.
        by_label: States by true label, where known.
        clusters: States by k-means.
        flexibility: Maps (D, D, D) that may tell where density moves: ``density``, ``attention`` of a model that has
            any, and the ``true`` spread where known.
        scores: Every number, as ``metrics.json`` holds them.
        labels: True labels, where known.
    """

    latents: Tensor
    components: PrincipalComponents
    path: Decoded
    by_label: Decoded | None
    clusters: Decoded
    flexibility: dict[str, Tensor]
    scores: dict[str, Any] = field(repr=False)
    labels: Tensor | None = None

    @property
    def shown(self) -> Decoded:
        """States for pictures: by label where known."""
        return self.by_label or self.path

    def save(self, path: Path) -> None:
        """Write ``latents.npz``: ``latents``, ``pcs``, ``cluster`` of every image, and ``labels`` where known."""
        owner = np.zeros(len(self.latents), dtype=np.int64)
        for number, members in enumerate(self.clusters.states.members):
            owner[members.numpy()] = number
        arrays = {"latents": self.latents.numpy(), "pcs": self.components.scores.numpy(), "cluster": owner}
        if self.labels is not None:
            arrays["labels"] = self.labels.numpy()
        np.savez_compressed(path, allow_pickle=False, **arrays)


def evaluate(
    model: Heterogeneous, particles: Particles, options: Options | None = None, progress: bool = False
) -> Evaluation:
    """Encode, decode and score.

    Args:
        model: Any with the four methods.
        particles: Images standardised as in training. Scores against the truth want ``labels`` and ``truth``.
        options: What is evaluated.
        progress: Whether to show a bar.

    Raises:
        ValueError: Fewer particles than states.
    """
    options = options or Options()
    if len(particles) < options.states:
        raise ValueError(f"{options.states} states want at least as many particles, got {len(particles)}")
    latents, labels = encode(model, particles, progress), particles.labels
    components = aligned(principal_components(latents), labels)
    path = _decoded(model, traversal(latents, components, options.states, 0, options.nearest))
    clusters = _decoded(model, cluster(latents, options.states, options.seed))
    scores: dict[str, Any] = {"particles": len(particles), "explained": components.explained.tolist()}
    by_label = None
    if labels is not None and particles.truth is not None:
        judge = Judge.of(particles, model.support, options.states)
        by_label = _decoded(model, label_states(latents, labels, options.states, options.nearest), judge)
        reached = torch.quantile(labels.double().cpu(), bin_middles(options.states))
        path = _scored(path, Judge.of(particles, model.support, reached))
        scores |= against_truth(model, latents, labels, judge, options)
        scores["spearman"] = spearman(components.scores[:, 0], labels.double().cpu())
        scores |= {"states": _numbers(by_label), "traversal": _numbers(path)}
    shown = by_label or path
    flexibility = {"density": spread(shown.volumes)}
    if getattr(model, "attends", True):
        flexibility["attention"] = attention_spread(model, shown.states.latents)
    if by_label is not None:
        scores["flexibility"] = {name: judge.locates(values) for name, values in flexibility.items()}
        flexibility["true"] = judge.flexibility
    scores["amplitude"] = motion_amplitude(shown.volumes)
    return Evaluation(latents, components, path, by_label, clusters, flexibility, scores, labels)


def against_truth(
    model: Heterogeneous, latents: Tensor, labels: Tensor, judge: Judge, options: Options
) -> dict[str, Any]:
    """Scores that want more maps: one image a state, and the control with shuffled latents.

    Returns:
        ``single``: as ``states``, with the latent of one image. ``shuffled``: the correlation of motions with latents
        in random order, one image a state as the means of shuffled latents would all be alike; the mean over
        `SHUFFLES` orders, and each of them.
    """
    single = _decoded(model, label_states(latents, labels, len(judge.labels), 1), judge)
    found = []
    for order in range(SHUFFLES):
        wrong = label_states(latents, shuffled(labels, options.seed + order), len(judge.labels), 1)
        found.append(judge.score(decode(model, wrong.latents)).motion)
    return {
        "single": _numbers(single),
        "shuffled": {"motion": sum(found) / len(found), "each": found},
        "true_amplitude": judge.amplitude,
    }


def encode(model: Heterogeneous, particles: Particles, progress: bool = False) -> Tensor:
    """Latents of all particles, (n, ...), on the CPU.

    Args:
        model: Asked in its present mode, without gradients.
        particles: Images standardised as the model was trained on them.
        progress: Whether to show a bar.
    """
    parts: Iterable[Tensor] = torch.split(torch.arange(len(particles)), BATCH)
    if progress:
        from rich.progress import track

        parts = track(list(parts), "encoding", transient=True)
    device = model.support.device
    with torch.no_grad():
        batches = (batch_of(particles, rows) for rows in parts)
        return torch.cat([model.encode({k: v.to(device) for k, v in batch.items()}).cpu() for batch in batches])


def decode(model: Heterogeneous, latents: Tensor) -> Tensor:
    """Maps (K, D, D, D) of latents (K, ...), on the CPU."""
    device = model.support.device
    with torch.no_grad():
        return torch.cat([model.volumes(part.to(device)).float().cpu() for part in torch.split(latents, DECODED)])


def aligned(components: PrincipalComponents, labels: Tensor | None) -> PrincipalComponents:
    """Components whose first grows with the labels; the sign is all that labels are used for."""
    if labels is not None and spearman(components.scores[:, 0], labels.double().cpu()) < 0:
        return components.flipped(0)
    return components


def attention_spread(model: Heterogeneous, latents: Tensor) -> Tensor:
    """How attention maps of states (K, ...) vary: root mean square over queries of their deviation, (D, D, D)."""
    device = model.support.device
    with torch.no_grad():
        maps = torch.cat([model.attention_maps(part.to(device)).cpu() for part in torch.split(latents, DECODED)])
    return (maps - maps.mean(0)).square().mean((0, 1)).sqrt()


def _decoded(model: Heterogeneous, states: States, judge: Judge | None = None) -> Decoded:
    decoded = Decoded(states, decode(model, states.latents))
    return decoded if judge is None else _scored(decoded, judge)


def _scored(decoded: Decoded, judge: Judge) -> Decoded:
    return Decoded(decoded.states, decoded.volumes, judge.volumes, judge.score(decoded.volumes))


def _numbers(decoded: Decoded) -> dict[str, float | None] | None:
    return None if decoded.scores is None else decoded.scores.numbers()
