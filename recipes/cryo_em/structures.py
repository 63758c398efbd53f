"""Molecules that move: atoms' positions along one path, for simulation."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

ATOMIC_NUMBER = {"C": 6.0, "N": 7.0, "O": 8.0, "S": 16.0, "P": 15.0}
CORE = "name CA and (resid 1:29 or resid 60:121 or resid 160:214)"
"""What stays put in adenylate kinase; its LID and NMP domains close over it."""


@dataclass(frozen=True)
class Trajectory:
    """Atoms along a path from one conformation to another.

    Args:
        positions: (frames, atoms, 3), x, y, z [Angstrom], the particle's centre at the origin.
        weights: What each atom scatters, (atoms,); its atomic number, say.

    Raises:
        ValueError: If shapes differ.
    """

    positions: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        if self.positions.ndim != 3 or self.positions.shape[1:] != (len(self.weights), 3):
            raise ValueError(f"positions {tuple(self.positions.shape)} do not fit {len(self.weights)} atoms")

    def at(self, labels: Tensor) -> Tensor:
        """Positions (k, atoms, 3) at labels (k,) in [0, 1], frames being joined by straight lines.

        Example:
            >>> path = Trajectory(torch.tensor([[[0.0, 0.0, 0.0]], [[4.0, 0.0, 2.0]]]), torch.ones(1))
            >>> path.at(torch.tensor([0.25]))
            tensor([[[1.0000, 0.0000, 0.5000]]])
        """
        last = len(self.positions) - 1
        place = labels.clamp(0, 1) * last
        before = place.floor().long().clamp(max=max(last - 1, 0))
        after = (before + 1).clamp(max=last)
        return torch.lerp(self.positions[before], self.positions[after], (place - before)[:, None, None])

    def only_first(self) -> Trajectory:
        """A particle that does not move: the first frame. What finds motion in it finds noise."""
        return Trajectory(self.positions[:1], self.weights)

    @property
    def radius(self) -> float:
        """Largest distance of an atom from the origin over the path [Angstrom]."""
        return float(self.positions.norm(dim=-1).max())


def beads(frames: int = 33, arm_angle: float = 70.0) -> Trajectory:
    """A rigid body of beads with an arm that swings about a hinge, by a formula: needs no structure file.

    Args:
        frames: Of the path; the arm turns by the same angle between any two.
        arm_angle: Whole swing [degree].

    Returns:
        84 beads of weight 10 within 36 Angstrom of the origin. The body has no symmetry and no hand but its own.
    """
    turn = torch.arange(56) * 0.55
    body = torch.stack([9 * torch.cos(turn), 7 * torch.sin(turn), turn * 1.15 - 26], 1)
    body = torch.cat(
        [body, torch.tensor([[14.0, 3.0, -20.0], [17.0, 5.0, -17.0], [3.0, -13.0, -8.0], [1.0, -16.0, -5.0]])]
    )
    along = torch.linspace(3, 24, 8)
    arm = torch.cat(
        [torch.stack([along, torch.full((8,), y), torch.full((8,), z)], 1) for y, z in ((0, 0), (3, 2), (0, 4))]
    )
    hinge = torch.tensor([4.0, 0.0, 8.0])
    angles = torch.deg2rad(torch.linspace(-arm_angle / 2, arm_angle / 2, frames))
    path = []
    for angle in angles.tolist():
        c, s = math.cos(angle), math.sin(angle)
        swing = torch.tensor([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
        path.append(torch.cat([body, arm @ swing.T + hinge]))
    return Trajectory(torch.stack(path), torch.full((len(path[0]),), 10.0))


def adenylate_kinase() -> Trajectory:
    """Adenylate kinase from closed to open: 98 frames of 1,656 heavy atoms, of the ``MDAnalysisTests`` package.

    The path is a simulation by dynamic importance sampling (Beckstein et al. 2009). Its frames are laid over the first
    by the CORE domain, so that what moves are the LID and NMP domains.

    Raises:
        ImportError: If MDAnalysis or MDAnalysisTests is not installed.
    """
    try:
        import MDAnalysis
        from MDAnalysisTests.datafiles import DCD, PSF
    except ImportError as error:
        raise ImportError("adenylate kinase needs MDAnalysisTests: pip install 'lightning-cim[cryo]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what a later version of MDAnalysis will do
        universe = MDAnalysis.Universe(PSF, DCD)
    heavy, core = universe.select_atoms("not name H*"), universe.select_atoms(CORE)
    weights = [ATOMIC_NUMBER[name[0]] for name in heavy.names]
    frames, reference = [], None
    for _ in universe.trajectory:
        here = core.positions.astype(np.float64)
        if reference is None:
            reference = here - here.mean(0)
        frames.append(
            (heavy.positions.astype(np.float64) - here.mean(0)) @ superposition(here - here.mean(0), reference)
        )
    positions = np.stack(frames)
    positions -= positions.mean((0, 1))
    return Trajectory(torch.from_numpy(positions).float(), torch.tensor(weights))


def superposition(moving: np.ndarray[Any, Any], fixed: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The rotation Q (3, 3) that brings ``moving @ Q`` nearest to ``fixed``, both (n, 3) about 0 (Kabsch 1976)."""
    u, _, v = np.linalg.svd(moving.T @ fixed)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ v))])
    rotation: np.ndarray[Any, Any] = u @ flip @ v
    return rotation


STRUCTURES = {"sim": adenylate_kinase, "beads": beads}
"""Simulated sources by name."""
