"""From an image to numbers: a residual multilayer perceptron over its pixels, as cryoDRGN's, behind a Wiener filter."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

WINDOW = 0.85
"""Radius of the pixels that an encoder sees, of half the box: corners hold noise and neighbouring particles."""


class ImageEncoder(nn.Module):
    """Residual multilayer perceptron over the pixels in a circle.

    Each layer but the first adds to what it gets, after a normalisation; without that, noise makes them grow.

    Args:
        size: Box size D in pixels.
        outputs: Numbers per image.
        width: Of each hidden layer.
        depth: Hidden layers.

    Attributes:
        filter: What images are multiplied with in Fourier space, (D, D // 2 + 1); at first 1. See `Spectrum.wiener`.

    Example:
        >>> ImageEncoder(8, outputs=5, width=16, depth=2)(torch.zeros(3, 8, 8)).shape
        torch.Size([3, 5])
    """

    filter: Tensor
    window: Tensor

    def __init__(self, size: int, outputs: int, width: int = 128, depth: int = 10) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"encoder_depth={depth}: want at least one hidden layer")
        axis = torch.arange(size) - size // 2
        inside = axis[:, None] ** 2 + axis**2 <= (WINDOW * size / 2) ** 2
        self.register_buffer("window", inside.flatten().nonzero()[:, 0], persistent=False)
        self.register_buffer("filter", torch.ones(size, size // 2 + 1))
        self.first = nn.Linear(len(self.window), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.last = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Numbers (b, outputs) of images (b, D, D) whose pixels have mean 0 and variance 1."""
        clear = torch.fft.irfft2(torch.fft.rfft2(images) * self.filter, s=images.shape[-2:])
        x = torch.relu(self.first(clear.flatten(1)[:, self.window]))
        for norm, layer in zip(self.norms, self.hidden, strict=False):
            x = x + torch.relu(layer(norm(x)))
        return self.last(self.norms[-1](x))  # type: ignore[no-any-return]


def shells(size: int) -> Tensor:
    """Number of the shell of frequencies, rounded, of each element of ``rfft2``'s layout, int64 (D, D // 2 + 1)."""
    fy, fx = torch.fft.fftfreq(size, 1 / size)[:, None], torch.fft.rfftfreq(size, 1 / size)
    return (fy**2 + fx**2).sqrt().round().long()  # type: ignore[no-any-return]


class Spectrum:
    """Mean power of images by frequency, gathered while batches pass by.

    Args:
        size: Box size D.
    """

    def __init__(self, size: int) -> None:
        self.size, self.count = size, 0
        self.power = torch.zeros(size, size // 2 + 1)

    def add(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Count the ``image`` (b, D, D) of a batch, and return the batch."""
        self.power += torch.fft.rfft2(batch["image"].cpu()).abs().square().sum(0)
        self.count += len(batch["image"])
        return batch

    def wiener(self) -> Tensor:
        """The filter that best separates the images from white noise, the same for all: 1 - noise / power, by shells.

        The noise is the least mean power of any shell. The filter is scaled such that filtered images have variance 1.

        Returns:
            (D, D // 2 + 1), ``rfft2``'s layout.
        """
        shell = shells(self.size)
        total = torch.zeros(int(shell.max()) + 1).index_add_(0, shell.flatten(), self.power.flatten())
        mean = (total / torch.bincount(shell.flatten()) / max(self.count, 1)).clamp_min(1e-12)
        found = (1 - mean[1:].min() / mean).clamp_min(0)[shell]
        found[0, 0] = 0
        weight = torch.full(found.shape, 2.0)  # the half plane stands for both
        weight[:, 0] = weight[:, -1] = 1
        variance = (found.square() * mean[shell] * weight).sum() / self.size**4
        return found / variance.sqrt() if variance > 0 else torch.ones_like(found)
