"""A U-Net of residual blocks, with or without a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(8, channels), channels)


def sinusoids(time: Tensor, channels: int) -> Tensor:
    """Sines and cosines of times at wavelengths from 2 pi to 2 pi 10^4 (Vaswani et al. 2017).

    Args:
        time: (B,).
        channels: An even number.

    Returns:
        (B, channels).

    Example:
        >>> sinusoids(torch.zeros(1), 4).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    half = channels // 2
    rates = torch.exp(-math.log(1e4) * torch.arange(half, device=time.device) / half)
    angles = time.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class ResidualBlock(nn.Module):
    """Two convolutions around which the input is added; a time scales and shifts between them."""

    def __init__(self, ins: int, outs: int, time_channels: int | None) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(ins), nn.Conv2d(ins, outs, 3, padding=1)
        self.norm2, self.conv2 = _norm(outs), nn.Conv2d(outs, outs, 3, padding=1)
        self.time = None if time_channels is None else nn.Linear(time_channels, 2 * outs)
        self.skip = nn.Identity() if ins == outs else nn.Conv2d(ins, outs, 1)

    def forward(self, x: Tensor, time: Tensor | None) -> Tensor:
        """(B, ins, H, W) and (B, time_channels) to (B, outs, H, W)."""
        hidden = self.norm2(self.conv1(F.silu(self.norm1(x))))
        if self.time is not None and time is not None:
            scale, shift = self.time(time)[:, :, None, None].chunk(2, 1)
            hidden = hidden * (1 + scale) + shift
        out: Tensor = self.skip(x) + self.conv2(F.silu(hidden))
        return out


class Attention(nn.Module):
    """Self-attention over all pixels, added to them."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.attention = nn.MultiheadAttention(channels, math.gcd(heads, channels), batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return x + mixed.transpose(1, 2).reshape(x.shape)


class UNet(nn.Module):
    """Encoder and decoder with skip connections.

    Args:
        width: Channels of the first level.
        multipliers: Channels of each level, in widths; each level after the first has half the side.
        blocks: Residual blocks a level, on either side.
        timed: The network is told a time, (B,), with the image.
        attention: Between encoder and decoder.
    """

    def __init__(
        self, width: int, multipliers: Sequence[int], blocks: int = 1, timed: bool = False, attention: bool = False
    ) -> None:
        super().__init__()
        channels = [width * multiplier for multiplier in multipliers]
        self.width, self.factor = width, 2 ** (len(channels) - 1)
        time = 4 * width if timed else None
        self.time = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))
        if not timed:
            self.time = nn.Sequential()
        self.timed = timed
        self.stem = nn.Conv2d(1, channels[0], 3, padding=1)
        self.encoder, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.decoder, self.grow = nn.ModuleList(), nn.ModuleList()
        now = channels[0]
        for level, outs in enumerate(channels):
            self.encoder.append(_stack([now, *[outs] * blocks], time))
            last = level == len(channels) - 1
            self.shrink.append(nn.Identity() if last else nn.Conv2d(outs, outs, 3, 2, padding=1))
            now = outs
        self.middle = _stack([now, now], time)
        self.attend = Attention(now) if attention else nn.Identity()
        self.middle2 = _stack([now, now] if attention else [now], time)
        for level in reversed(range(len(channels))):
            outs = channels[level]
            self.decoder.append(_stack([now + outs, *[outs] * blocks], time))
            up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(outs, channels[max(level - 1, 0)], 3, padding=1))
            self.grow.append(up if level else nn.Identity())
            now = channels[max(level - 1, 0)]
        self.norm, self.out = _norm(channels[0]), nn.Conv2d(channels[0], 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, 1, H, W), sides multiples of `factor`, to the same shape."""
        emb = self.time(sinusoids(time, self.width)) if self.timed and time is not None else None
        x, skips = self.stem(x), []
        for blocks, shrink in zip(self.encoder, self.shrink, strict=True):
            x = _apply(blocks, x, emb)
            skips.append(x)
            x = shrink(x)
        x = _apply(self.middle2, self.attend(_apply(self.middle, x, emb)), emb)
        for blocks, grow in zip(self.decoder, self.grow, strict=True):
            x = grow(_apply(blocks, torch.cat([x, skips.pop()], 1), emb))
        painted: Tensor = self.out(F.silu(self.norm(x)))
        return painted


def _stack(channels: Sequence[int], time: int | None) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(ins, outs, time) for ins, outs in pairwise(channels))


def _apply(blocks: nn.Module, x: Tensor, time: Tensor | None) -> Tensor:
    for block in blocks.children():
        x = block(x, time)
    return x
