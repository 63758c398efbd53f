"""A denoising autoencoder: a U-Net that removes coarse noise (after Kascenas et al., MIDL 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.brain_mri.models.base import Reconstructor, TrainingPass, normal
from recipes.brain_mri.models.unet import UNet

GRID = 16
"""Cells along a side of the noise."""
STD = 0.2
"""Of the noise, where images are in [0, 1]."""


def coarse_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise N(0, 0.2) on a grid of 16 x 16, bilinear to the size of the slices, rolled by a random distance.

    Args:
        like: (B, 1, H, W).
        generator: On the CPU.

    Returns:
        As `like`.

    Example:
        >>> coarse_noise(torch.zeros(2, 1, 32, 32), torch.Generator().manual_seed(0)).shape
        torch.Size([2, 1, 32, 32])
    """
    batch, _, height, width = like.shape
    noise = STD * normal((batch, 1, GRID, GRID), like, generator)
    smooth = F.interpolate(noise, (height, width), mode="bilinear")
    down, right = (int(torch.randint(side, (), generator=generator)) for side in (height, width))
    return smooth.roll((down, right), (2, 3))


class DenoisingAutoEncoder(Reconstructor):
    """A U-Net with skip connections. In training its input is noisy, its target clean; at test time nothing is noisy.

    The network says what to add to its input, and begins with nothing; noise is only where an image is above 0. Both
    are ours: within minutes on a CPU a network that paints the whole picture anew, or cleans the background, too,
    learns far less.

    Args:
        size: Side of the slices, a multiple of 8.
        width: Channels of the first level.
    """

    def __init__(self, size: int = 96, width: int = 8) -> None:
        net = UNet(width, (1, 2, 4, 8))
        super().__init__(size, net.factor)
        self.net = net
        nn.init.zeros_(net.out.weight)
        nn.init.zeros_(net.out.bias)  # type: ignore[arg-type]

    def reconstruct(self, image: Tensor) -> Tensor:
        """Clamped to [0, 1]."""
        return self._cleaned(image).clamp(0, 1)

    def training_pass(self, image: Tensor, generator: torch.Generator) -> TrainingPass:
        """From the noisy image."""
        noisy = image + coarse_noise(image, generator) * (image > 0)
        return TrainingPass(self._cleaned(noisy), image.new_zeros(()))

    def _cleaned(self, image: Tensor) -> Tensor:
        out: Tensor = image + self.net(image)
        return out
