"""Scores of maps of several states, of latents and of flexibility.

A good average map reaches a high FSC without any motion, so the scores that count are those a single map cannot get:
the correlation of motions (0 for any single map) and the worst state's AUC.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recipes.cryo_em.fsc import MAP_TO_TRUTH, ShellCorrelation, fourier_shell_correlation


@dataclass(frozen=True)
class StateScores:
    """Maps of K states against the true ones.

    Attributes:
        curves: FSC of every state, (K, S).
        motion: Correlation of motions in [-1, 1]; see `motion_correlation`.
        auc_mean: Mean over states of the mean FSC.
        auc_worst: Of the worst state.
        auc_mobile: Mean over states within the mobile region; None where none is known.
        resolution: Mean over states at FSC 0.5, first crossing, Angstrom.
        resolution_last: The same, last crossing.
        amplitude: Of motion; see `motion_amplitude`.
    """

    curves: ShellCorrelation
    motion: float
    auc_mean: float
    auc_worst: float
    auc_mobile: float | None
    resolution: float
    resolution_last: float
    amplitude: float

    def numbers(self) -> dict[str, float | None]:
        """All but the curves, for ``metrics.json``."""
        return {name: value for name, value in vars(self).items() if name != "curves"}


def score_states(
    volumes: Tensor, truth: Tensor, pixel_size: float, mask: Tensor | None = None, mobile: Tensor | None = None
) -> StateScores:
    """Score maps of states.

    Args:
        volumes: (K, D, D, D); their scale does not matter, their sign does.
        truth: (K, D, D, D), the same states.
        pixel_size: Angstrom.
        mask: (D, D, D) in [0, 1], applied to the reconstructed maps alone, the same for every method: masking the
            truth would spare a map what it has to show outside.
        mobile: (D, D, D) in [0, 1], soft, around what moves; applied to both.

    Raises:
        ValueError: Different shapes.
    """
    if volumes.shape != truth.shape or volumes.ndim != 4:
        raise ValueError(f"want two (K, D, D, D), got {tuple(volumes.shape)} and {tuple(truth.shape)}")
    masked = volumes if mask is None else volumes * mask
    curves = fourier_shell_correlation(masked, truth, pixel_size)
    near = None if mobile is None else fourier_shell_correlation(masked, truth, pixel_size, mobile)
    return StateScores(
        curves,
        motion_correlation(masked, truth),
        float(curves.auc.mean()),
        float(curves.auc.min()),
        None if near is None else float(near.auc.mean()),
        float(curves.resolution(MAP_TO_TRUTH).mean()),
        float(curves.resolution(MAP_TO_TRUTH, "last").mean()),
        motion_amplitude(masked),
    )


def motion_correlation(volumes: Tensor, truth: Tensor) -> float:
    """Correlation, over all states and voxels, of how maps differ from their mean with how the true ones do.

    Args:
        volumes: (K, D, D, D).
        truth: (K, D, D, D).

    Returns:
        1 for the true motion at any positive scale, 0 where either does not move.

    Example:
        >>> truth = torch.randn(5, 4, 4, 4)
        >>> round(motion_correlation(3 * truth + torch.randn(4, 4, 4), truth), 4)
        1.0
        >>> motion_correlation(truth.mean(0).expand(5, 4, 4, 4), truth)
        0.0
    """
    ours, true = motion(volumes), motion(truth)
    norm = float(ours.norm() * true.norm())
    return float((ours * true).sum()) / norm if norm > 0 else 0.0


def motion_amplitude(volumes: Tensor) -> float:
    """Root mean square of how maps (K, D, D, D) differ from their mean, relative to that of the mean map.

    Example:
        >>> motion_amplitude(torch.tensor([0.5, 1.5]).view(2, 1, 1, 1).expand(2, 3, 3, 3))
        0.5
    """
    mean = float(volumes.double().mean(0).square().mean().sqrt())
    return float(motion(volumes).square().mean().sqrt()) / mean if mean > 0 else 0.0


def motion(volumes: Tensor) -> Tensor:
    """How maps differ from their mean, float64 (K, D, D, D); exactly 0 where all are alike to float32."""
    wide = volumes.double()
    moved = wide - wide.mean(0)
    least = torch.finfo(torch.float32).eps * float(wide.abs().max()) if wide.numel() else 0.0
    return torch.where(moved.abs().amax(0) > least, moved, 0.0)


def spearman(first: Tensor, second: Tensor) -> float:
    """Spearman's rank correlation of two vectors (n,); ties share their mean rank.

    Returns:
        In [-1, 1]; 0 where one vector is constant.

    Raises:
        ValueError: Different or too small sizes.

    Example:
        >>> spearman(torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 8.0, 27.0, 64.0]))
        1.0
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(f"want two vectors of one length >= 2, got {tuple(first.shape)} and {tuple(second.shape)}")
    ranks = [mean_ranks(values) for values in (first, second)]
    a, b = (rank - rank.mean() for rank in ranks)
    norm = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def auroc(score: Tensor, positive: Tensor) -> float:
    """Probability that a positive has a higher score than a negative, ties counting one half (Mann-Whitney).

    Args:
        score: (n,).
        positive: Bool (n,), with at least one of each kind.

    Raises:
        ValueError: All are of one kind.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
        0.75
    """
    hits, misses = int(positive.sum()), int((~positive).sum())
    if not hits or not misses:
        raise ValueError(f"AUROC wants both kinds, got {hits} positives and {misses} negatives")
    return float((mean_ranks(score)[positive].sum() - hits * (hits - 1) / 2) / (hits * misses))


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 0, float64 (n,); equal values share the mean of theirs."""
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    ranks: Tensor = last - (counts.double() + 1) / 2
    return ranks[inverse]
