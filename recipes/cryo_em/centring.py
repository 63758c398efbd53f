"""Shifts from the consensus map, before anything else is fitted.

Images that are moved by a pixel, each in a direction of its own, blur the consensus map, and a joint fit spends most of
its time on that. So map and shifts take turns: one Gauss-Newton step on the two numbers of each image, in Fourier space
where a shift's derivative is exact, then the map again. Rotations are left to the joint fit: of a molecule that moves,
turning images until they fit one map takes up the motion (adenylate kinase at SNR 10: from 2 degrees off to 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from rich.progress import track
from torch import Tensor

from recipes.cryo_em.batches import Batch
from recipes.cryo_em.consensus import consensus
from recipes.cryo_em.poses import RefinedPoses
from recipes.cryo_em.projector import Projector
from recipes.cryo_em.stack import chunks
from recipes.cryo_em.support import positions_of, sphere

ROUNDS = 10
"""Times that shifts and map take turns."""
AT_ONCE = 16
"""Images that are projected at once: more do not fit a processor's cache."""


@torch.no_grad()
def centre(poses: RefinedPoses, batches: Iterable[Batch], projector: Projector, progress: bool = False) -> Tensor:
    """Set the shifts of particles so that their images fit the consensus map.

    Args:
        poses: The corrections, of which ``shift`` is changed.
        batches: Each particle once; gone through in every round.
        projector: Of the images' size.
        progress: Whether to show a bar.

    Returns:
        The consensus map (D, D, D) in the new shifts.

    Raises:
        ValueError: There are no images.
    """
    device, moved = poses.shift.device, _Moved(poses, batches)
    inside = sphere(projector.size).to(device)
    positions = positions_of(inside)
    found = consensus(moved, projector.size, device)
    for _ in track(range(ROUNDS), "Shifts", disable=not progress):
        for batch in moved:
            rotation, shift = batch["rotation"].to(device), batch["shift"].to(device)
            expected = torch.cat(
                [
                    projector(found[inside].expand(len(some), -1), positions, rotation[some], shift[some])
                    for some in chunks(torch.arange(len(shift), device=device), AT_ONCE)
                ]
            )
            if "ctf" in batch:
                expected = expected * batch["ctf"].to(device)
            seen, index = torch.fft.rfft2(batch["image"].to(device)), batch["index"].to(device)
            before = poses.shift[index]
            poses.shift[index] = before + shift_step(expected, seen, before, float(poses.spread[1]))
        found = consensus(moved, projector.size, device)
    return found


def shift_step(expected: Tensor, seen: Tensor, before: Tensor, spread: float) -> Tensor:
    """One Gauss-Newton step of the most probable shifts.

    Args:
        expected: Spectra (b, D, D // 2 + 1) of the images in their present shifts.
        seen: Of the images.
        before: Present corrections (b, 2) [pixels].
        spread: Standard deviation along one axis by which given shifts are thought to be off [pixels].

    Returns:
        By how much the corrections should move, (b, 2).
    """
    size = expected.shape[1]
    fy, fx = (f.to(expected.device) for f in (torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]))
    twice = torch.full_like(fx, 2.0)  # the half plane stands for both, but for its first and last columns
    twice[0, 0] = twice[0, -1] = 1.0
    change = -2j * math.pi * torch.stack([(fx * expected), (fy * expected)], 1)  # (b, 2, D, D // 2 + 1)
    off = seen - expected
    variance = (twice * off.abs().square()).sum((1, 2)).mean() / size**2
    score = (twice * (change.conj() * off[:, None]).real).sum((2, 3)) / variance
    squares = (twice * (change[:, :, None].conj() * change[:, None]).real).sum((3, 4)) / variance
    known = torch.eye(2, device=expected.device) / spread**2
    return torch.linalg.solve(squares + known, score - before / spread**2)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _Moved:
    """Batches in the shifts of the model."""

    poses: RefinedPoses
    batches: Iterable[Batch]

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.batches:
            yield {**batch, "shift": batch["shift"] + self.poses.shift[batch["index"]].detach().to(batch["shift"])}
