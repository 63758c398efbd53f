"""The implicit spatial feature volume F_S: from a point to R^{N x C}."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor, nn

_PRIMES = (1, 2654435761, 805459861)


class FeatureTable(nn.Module):
    """One row of features for each voxel of the support: exact there, and nowhere else.

    Args:
        points: M, voxels of the support.
        queries: N.
        channels: C.
        std: Of the first values.
    """

    def __init__(self, points: int, queries: int, channels: int, std: float = 1.0) -> None:
        super().__init__()
        self.std = std
        self.table = nn.Parameter(std * torch.randn(points, queries, channels))

    def place(self, positions: Tensor, rows: Tensor) -> None:
        """Follow the support to other voxels.

        Args:
            positions: (M, 3) in voxels, from the centre.
            rows: int64 (M,), the row of each voxel until now, -1 for a new one. The parameter stays the same object.
        """
        with torch.no_grad():
            table = self.std * torch.randn(len(rows), *self.table.shape[1:], device=self.table.device)
            known = rows >= 0
            table[known] = self.table[rows[known]]
            self.table.data = table

    def forward(self) -> Tensor:
        """Features (M, N, C) of the support's voxels."""
        return self.table


class HashVolume(nn.Module):
    """Multi-resolution hash grid and a linear layer each to `hidden` and to N x C, in plain torch.

    Levels of a geometric series of resolutions hold `features` numbers a node in tables of at most `entries` rows; a
    point gets the trilinear mix of eight nodes of each level (Mueller et al., 2022, Instant-NGP).
    Published for CryoFormer: 16 levels, 2 features, 2^15 entries, coarsest resolution 16, hidden 16. The finest
    resolution is not published; here it is the box size.

    Args:
        size: Box size D in voxels.
        queries: N.
        channels: C.
        levels: How many.
        features: Numbers a node holds.
        entries: Rows of a level's table at most.
        coarsest: Resolution of the first level.
        hidden: Width between the two linear layers.
    """

    rows: Tensor
    weights: Tensor

    def __init__(
        self,
        size: int,
        queries: int,
        channels: int,
        levels: int = 16,
        features: int = 2,
        entries: int = 2**15,
        coarsest: int = 16,
        hidden: int = 16,
    ) -> None:
        super().__init__()
        coarsest = min(coarsest, size)
        growth = math.log(size / coarsest) / max(levels - 1, 1)
        self.size, self.queries = size, queries
        self.resolutions = [round(coarsest * math.exp(growth * level)) for level in range(levels)]
        self.lengths = [min((r + 1) ** 3, entries) for r in self.resolutions]
        self.table = nn.Parameter(torch.empty(sum(self.lengths), features).uniform_(-1, 1))
        self.first, self.last = nn.Linear(levels * features, hidden), nn.Linear(hidden, queries * channels)
        self.register_buffer("rows", torch.zeros(0, levels, 8, dtype=torch.long), persistent=False)
        self.register_buffer("weights", torch.zeros(0, levels, 8), persistent=False)

    def place(self, positions: Tensor, rows: Tensor) -> None:
        """Follow the support to other voxels; arguments as of `FeatureTable.place`."""
        self.rows, self.weights = self._corners(positions)

    def forward(self) -> Tensor:
        """Features (M, N, C) of the support's voxels."""
        return self._mix(self.rows, self.weights)

    def at(self, positions: Tensor) -> Tensor:
        """Features (..., N, C) of any positions (..., 3) in voxels from the centre, held inside the box."""
        features = self._mix(*self._corners(positions.reshape(-1, 3)))
        return features.unflatten(0, positions.shape[:-1])  # type: ignore[no-any-return, no-untyped-call]

    def _mix(self, rows: Tensor, weights: Tensor) -> Tensor:
        nodes = (self.table[rows] * weights[..., None]).sum(2).flatten(1)
        return self.last(torch.relu(self.first(nodes))).unflatten(-1, (self.queries, -1))  # type: ignore[no-any-return]

    def _corners(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table and trilinear weights, both (P, levels, 8)."""
        unit = ((positions + self.size // 2) / self.size).clamp(0, 1)
        rows, weights, start = [], [], 0
        for resolution, length in zip(self.resolutions, self.lengths, strict=True):
            place = unit * resolution
            low = place.detach().floor().clamp(max=resolution - 1)
            part, node = place - low, low.long()
            for corner in product((0, 1), repeat=3):
                x, y, z = ((node[:, axis] + step) for axis, step in enumerate(corner))
                side = resolution + 1
                if side**3 <= length:
                    row = x + side * (y + side * z)
                else:
                    row = (x * _PRIMES[0] ^ y * _PRIMES[1] ^ z * _PRIMES[2]) % length
                rows.append(start + row)
                sides = [part[:, axis] if step else 1 - part[:, axis] for axis, step in enumerate(corner)]
                weights.append(sides[0] * sides[1] * sides[2])
            start += length
        shape = (len(unit), len(self.resolutions), 8)
        return torch.stack(rows, 1).view(shape), torch.stack(weights, 1).view(shape)
