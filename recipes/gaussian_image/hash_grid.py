"""Binary multi-resolution hash grid: where an image is, in few bits.

Each level is a square grid whose nodes hold features of +1 or -1; a position gets the bilinear mix of the four nodes
around it, of every level. A level whose nodes fit the table has one entry a node, a finer one shares entries by hashing
(Mueller et al., Instant Neural Graphics Primitives, 2022; binary entries as in HAC, Chen et al., 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

_PRIME = 2654435761


@dataclass(frozen=True)
class HashConfig:
    """Size of a hash grid.

    Attributes:
        resolutions: Nodes a side of each level, at least 2.
        table_size: Entries of a level at most.
        features: Numbers an entry holds.

    Raises:
        ValueError: A level, table or entry without content.
    """

    resolutions: tuple[int, ...] = (18, 33)
    table_size: int = 1024
    features: int = 2

    def __post_init__(self) -> None:
        if not self.resolutions or min(self.resolutions) < 2 or self.table_size < 1 or self.features < 1:
            raise ValueError(f"{self}: want levels of 2 nodes a side or more, a table and features")

    @property
    def width(self) -> int:
        """Numbers that a position gets."""
        return len(self.resolutions) * self.features

    @property
    def entries(self) -> tuple[int, ...]:
        """Table entries of each level: a node each, rounded up to 8, or the whole table.

        Example:
            >>> HashConfig(resolutions=(3, 100), table_size=64).entries
            (16, 64)
        """
        return tuple(
            -(-(side**2) // 8) * 8 if side**2 <= self.table_size else self.table_size for side in self.resolutions
        )


class Corners(NamedTuple):
    """The nodes around positions.

    Attributes:
        rows: int64 (N, levels, 4), of the table.
        weight: (N, levels, 4), bilinear; four sum to 1.
    """

    rows: Tensor
    weight: Tensor


class BinaryHashGrid(nn.Module):
    """Hash grid whose learned table is used by its signs only.

    Gradients reach entries within +-1 as if the sign were the identity.

    Args:
        config: Its size.

    Example:
        >>> grid = BinaryHashGrid(HashConfig(resolutions=(4,), features=3))
        >>> grid(torch.rand(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, config: HashConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Parameter(torch.empty(sum(config.entries), config.features).uniform_(-1e-4, 1e-4))

    def corners(self, u: Tensor) -> Corners:
        """Nodes and weights of positions.

        Args:
            u: (N, 2) in [0, 1].
        """
        indices, weights, start = [], [], 0
        for side, entries in zip(self.config.resolutions, self.config.entries, strict=True):
            place = u * (side - 2) + 0.5
            low = place.floor().long().clamp(0, side - 2)
            part = place - low
            for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
                x, y = low[:, 0] + dx, low[:, 1] + dy
                row = x + y * side if side**2 <= entries else (x ^ (y * _PRIME)) % entries
                indices.append(start + row)
                weights.append((part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1]))
            start += entries
        shape = (len(u), len(self.config.resolutions), 4)
        return Corners(torch.stack(indices, 1).view(shape), torch.stack(weights, 1).view(shape))

    def mix(self, corners: Corners) -> Tensor:
        """Features (N, levels * features) of positions whose nodes are known already."""
        nodes = _sign(self.table)[corners.rows]
        return (nodes * corners.weight[..., None].to(nodes.dtype)).sum(2).flatten(1)

    def forward(self, u: Tensor) -> Tensor:
        """Features of positions.

        Args:
            u: (N, 2) in [0, 1].

        Returns:
            (N, levels * features) in [-1, 1].
        """
        return self.mix(self.corners(u))

    def bits(self) -> Tensor:
        """The table as the file holds it: bool, its shape, True for +1."""
        return self.table.detach() >= 0

    def load_bits(self, bits: Tensor) -> None:
        """Set the table to +1 where True and to -1 elsewhere.

        Raises:
            ValueError: Bits of another shape.
        """
        if bits.shape != self.table.shape:
            raise ValueError(f"bits of shape {tuple(bits.shape)} for a table of {tuple(self.table.shape)}")
        with torch.no_grad():
            self.table.copy_(torch.where(bits, 1.0, -1.0))

    def cost(self) -> Tensor:
        """Bits that an ideal coder of one probability spends on the table, 32 for the probability among them."""
        share = (_sign(self.table).mean() + 1) / 2
        share = share.clamp(1e-6, 1 - 1e-6)
        entropy = -(share * share.log2() + (1 - share) * (1 - share).log2())
        return self.table.numel() * entropy + 32


def _sign(table: Tensor) -> Tensor:
    """Signs, zero counting as +1; the gradient passes where |x| <= 1."""
    clipped = table.clamp(-1, 1)
    sign = (table >= 0).to(table.dtype) * 2 - 1
    return clipped + (sign - clipped).detach()
