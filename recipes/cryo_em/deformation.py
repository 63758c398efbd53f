"""The query-based deformation transformer decoder, and the heads that turn queries and features into density.

Structure queries Q in R^{N x C} belong to the molecule, deformation features F_D in R^{N x C} to an image. Blocks mix
both into Q'. At a point x with spatial features F_S(x) in R^{N x C},

    sigma(x) = base(x) + sum_n w . phi(W [softmax(Q' F_S(x)^T / sqrt C) Q']_n + b)

(CryoFormer, arXiv 2303.16254; norms, heads, residuals, N, C and the width of the last layer are not published). phi is
a leaky ReLU: with a plain one some fits moved nothing at all, presumably because their units died while the encoder
knew nothing yet.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

Values = Literal["features", "queries"]

LEAK = 0.2
"""Slope of phi below 0."""


class Attention(nn.Module):
    """Multi-head attention between small sets of tokens.

    Args:
        channels: C of queries, keys and values.
        heads: Divides C.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"channels={channels} is not a multiple of heads={heads}")
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(channels, channels) for _ in range(4))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """(b, N, C) from three (b, N, C)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.query, queries), (self.key, keys), (self.value, values))
        )
        weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class DeformationBlock(nn.Module):
    """Self-attention of the queries, cross-attention to an image's features, feed-forward; each pre-norm, residual.

    Args:
        channels: C.
        heads: Of both attentions.
        values: What cross-attention mixes: the image's ``features``, as DETR does, or the ``queries``, as the paper
            writes it, which then depend on the image through the weights only.
    """

    def __init__(self, channels: int, heads: int, values: Values) -> None:
        super().__init__()
        self.values = values
        self.self_norm, self.cross_norm, self.feed_norm = (nn.LayerNorm(channels) for _ in range(3))
        self.self_attention, self.cross_attention = Attention(channels, heads), Attention(channels, heads)
        self.feed = nn.Sequential(nn.Linear(channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, channels))

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """(b, N, C) from queries and deformation features, both (b, N, C)."""
        normed = self.self_norm(queries)
        queries = queries + self.self_attention(normed, normed, normed)
        normed = self.cross_norm(queries)
        queries = queries + self.cross_attention(normed, features, features if self.values == "features" else normed)
        return queries + self.feed(self.feed_norm(queries))  # type: ignore[no-any-return]


class DeformationDecoder(nn.Module):
    """Learnable structure queries, bent by an image's deformation features.

    Args:
        queries: N.
        channels: C.
        blocks: How many.
        heads: Of each attention.
        values: See `DeformationBlock`.

    Raises:
        ValueError: Unknown values, or heads that do not divide channels.
    """

    def __init__(
        self, queries: int, channels: int, blocks: int = 3, heads: int = 4, values: Values = "features"
    ) -> None:
        super().__init__()
        if values not in ("features", "queries"):
            raise ValueError(f"values={values!r}: want 'features' or 'queries'")
        self.queries = nn.Parameter(torch.randn(queries, channels))
        self.blocks = nn.ModuleList(DeformationBlock(channels, heads, values) for _ in range(blocks))

    def forward(self, features: Tensor) -> Tensor:
        """Bent queries Q' (b, N, C) from deformation features F_D (b, N, C)."""
        queries = self.queries.expand(len(features), -1, -1)
        for block in self.blocks:
            queries = block(queries, features)
        return queries


class PerceptronDecoder(nn.Module):
    """Ablation: the deformation features themselves, through a residual layer for each block of the transformer.

    Args:
        queries: N.
        channels: C.
        blocks: Residual layers.
    """

    def __init__(self, queries: int, channels: int, blocks: int = 3) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(queries * channels, queries * channels) for _ in range(blocks))

    def forward(self, features: Tensor) -> Tensor:
        """(b, N, C) from deformation features (b, N, C)."""
        x = features.flatten(1)
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        return x.view_as(features)


class AttentionHead(nn.Module):
    """Density from bent queries by spatial cross-attention.

    Args:
        channels: C.
        hidden: H, rows of W.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.lift = nn.Linear(channels, hidden)
        self.density = nn.Linear(hidden, 1, bias=False)
        nn.init.normal_(self.density.weight, std=1e-2)

    def attention(self, queries: Tensor, features: Tensor) -> Tensor:
        """Weights (b, N, N, M): how much each query attends to each spatial feature (third axis, sums to 1) of a point.

        Args:
            queries: Q', (b, N, C).
            features: F_S, (M, N, C) for points that all images share, or (b, M, N, C).
        """
        b, n, c = queries.shape
        # Points come last: every operation then runs along memory, the softmax of N numbers too.
        keys = features.movedim(-3, -1).transpose(-3, -2).flatten(-2)  # (C, N M) or (b, C, N M)
        scaled = queries / math.sqrt(c)
        logits = scaled.reshape(b * n, c) @ keys if features.ndim == 3 else scaled @ keys
        return logits.view(b, n, n, -1).softmax(2)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """What is added to the base density, (b, M); arguments as of `attention`."""
        weights = self.attention(queries, features)
        # W is applied to the N queries rather than to all N x M mixtures of them, b too: weights sum to 1.
        mixed = self.lift(queries).mT[:, None] @ weights  # (b, N, H, M)
        return (self.density.weight @ leaky_relu(mixed, LEAK).sum(1))[:, 0]


class PerceptronHead(nn.Module):
    """Ablation: density from features of a point and of an image through one hidden layer as wide as N times H.

    Args:
        queries: N.
        channels: C.
        hidden: H.
    """

    def __init__(self, queries: int, channels: int, hidden: int) -> None:
        super().__init__()
        width = queries * hidden
        self.spatial = nn.Linear(queries * channels, width, bias=False)
        self.lift = nn.Linear(queries * channels, width)
        self.density = nn.Linear(width, 1, bias=False)
        nn.init.normal_(self.density.weight, std=1e-2)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """What is added to the base density, (b, M); arguments as of `AttentionHead.attention`."""
        spatial = self.spatial(features.flatten(-2))
        return leaky_relu(spatial + self.lift(queries.flatten(1))[:, None], LEAK) @ self.density.weight[0]
