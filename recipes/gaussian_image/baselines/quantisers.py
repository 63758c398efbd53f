"""Learned quantisers of GaussianImage: uniform steps for shapes, residual vectors for colours.

Both are straight-through: what goes on is quantised, gradients pass as if it were not, and reach the quantiser too.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_KMEANS_ROUNDS = 10


class UniformQuantiser(nn.Module):
    """2^bits levels a column, whose step and lowest level are learned (LSQ+, as in GaussianImage).

    Args:
        bits: Of a symbol.
        columns: How many.

    Example:
        >>> quantiser = UniformQuantiser(2, 1)
        >>> quantiser.start(torch.tensor([[0.0], [3.0]]))
        >>> quantiser(torch.tensor([[0.9], [7.0]])).tolist()
        [[1.0], [3.0]]
    """

    def __init__(self, bits: int, columns: int) -> None:
        super().__init__()
        self.last = 2**bits - 1
        self.step = nn.Parameter(torch.ones(columns))
        self.lowest = nn.Parameter(torch.zeros(columns))

    @torch.no_grad()
    def start(self, x: Tensor, spare: float = 0.0) -> None:
        """Spread the levels over these values (N, columns), except the share `spare` at each end."""
        low, high = (torch.quantile(x, share, dim=0) for share in (spare, 1 - spare))
        self.step.copy_(((high - low) / self.last).clamp_min(1e-6))
        self.lowest.copy_(low)

    def forward(self, x: Tensor) -> Tensor:
        """Values on the levels, (N, columns)."""
        place = ((x - self.lowest) / self.step).clamp(0, self.last)
        return (place.round().detach() + (place - place.detach())) * self.step + self.lowest

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Tensor:
        """Numbers of the levels, 0 to 2^bits - 1."""
        return ((x - self.lowest) / self.step).clamp(0, self.last).round().long()

    @torch.no_grad()
    def values(self, symbols: Tensor) -> Tensor:
        """What `forward` makes of values with these symbols, to the last bit."""
        return symbols.float() * self.step + self.lowest


class ResidualQuantiser(nn.Module):
    """Vectors as sums of one entry from each codebook; each codebook codes what those before it left.

    Args:
        stages: Codebooks.
        entries: Of each.
        columns: Of a vector.
    """

    def __init__(self, stages: int, entries: int, columns: int) -> None:
        super().__init__()
        self.books = nn.Parameter(torch.zeros(stages, entries, columns))

    @torch.no_grad()
    def start(self, x: Tensor) -> None:
        """K-means of these vectors (N, columns), codebook by codebook."""
        rest = x
        for stage, book in enumerate(self.books):
            self.books[stage] = _kmeans(rest, len(book))
            rest = rest - self._stored()[stage][_nearest(rest, self._stored()[stage])]

    def forward(self, x: Tensor) -> Tensor:
        """The nearest sums of entries, (N, columns)."""
        chosen = self._sum(self._stored(), self.symbols(x))
        return chosen + (x - x.detach())

    @torch.no_grad()
    def symbols(self, x: Tensor) -> Tensor:
        """Numbers of the entries, (N, stages)."""
        found, rest = [], x
        for book in self._stored():
            found.append(_nearest(rest, book))
            rest = rest - book[found[-1]]
        return torch.stack(found, 1)

    @torch.no_grad()
    def values(self, symbols: Tensor) -> Tensor:
        """What entries sum to, (N, columns)."""
        return self._sum(self._stored(), symbols)

    def _stored(self) -> Tensor:
        """The codebooks as a file holds them: rounded to half precision."""
        return self.books.half().float().detach() + (self.books - self.books.detach())

    @staticmethod
    def _sum(books: Tensor, symbols: Tensor) -> Tensor:
        return torch.stack([book[column] for book, column in zip(books, symbols.unbind(1), strict=True)]).sum(0)


def _nearest(x: Tensor, book: Tensor) -> Tensor:
    return torch.cdist(x, book).argmin(1)


def _kmeans(x: Tensor, entries: int) -> Tensor:
    """Centres (entries, columns), from evenly spaced vectors in the order of their norm; empty clusters stay."""
    order = x.norm(dim=1).argsort()
    centres = x[order[torch.linspace(0, len(x) - 1, entries).long()]].clone()
    for _ in range(_KMEANS_ROUNDS):
        nearest = _nearest(x, centres)
        count = torch.bincount(nearest, minlength=entries)[:, None]
        total = torch.zeros_like(centres).index_add_(0, nearest, x)
        centres = torch.where(count > 0, total / count.clamp_min(1), centres)
    return centres
