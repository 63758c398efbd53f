"""Augmentation of training batches: what varies between electrodes and gains, not between rhythms."""

from __future__ import annotations

import torch
from torch import Tensor


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Draw gain, polarity and noise anew for every window.

    The gain is exp(N(0, 0.5)), the polarity flips with probability one half, and white noise is added with a standard
    deviation uniform between 0 and 5 % of the window's peak.

    Args:
        x: Windows, shape (B, 1, L); unchanged.
        generator: Source of all draws, on the device of `x`.

    Returns:
        New windows, shape (B, 1, L).

    Example:
        >>> draw = torch.Generator().manual_seed(0)
        >>> augment(torch.ones(2, 1, 8), draw).shape
        torch.Size([2, 1, 8])
    """
    batch = (len(x), 1, 1)
    gain = torch.exp(0.5 * torch.randn(batch, generator=generator, device=x.device))
    sign = torch.where(torch.rand(batch, generator=generator, device=x.device) < 0.5, -1.0, 1.0)
    level = 0.05 * torch.rand(batch, generator=generator, device=x.device) * x.abs().amax(dim=(1, 2), keepdim=True)
    noise = level * torch.randn(x.shape, generator=generator, device=x.device)
    return sign * gain * (x + noise)
