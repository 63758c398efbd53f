"""Convolutional autoencoders with a dense, a spatial or a variational bottleneck (after Baur et al., MedIA 2021)."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from recipes.brain_mri.models.base import Reconstructor, TrainingPass, begin_black, normal

LEVELS = 4
"""Convolutions with stride 2."""


def _channels(width: int) -> list[int]:
    return [width * 2 ** min(level, 3) for level in range(LEVELS)]


def _convolution(ins: int, outs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(ins, outs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outs), nn.LeakyReLU(0.1)
    )


class _Encoder(nn.Sequential):
    def __init__(self, width: int) -> None:
        channels = [1, *_channels(width)]
        super().__init__(*(_convolution(ins, outs, 2) for ins, outs in pairwise(channels)))


class _Decoder(nn.Module):
    """Nearest-neighbour upsampling and convolutions, which leave no checkerboard; `out` is the last layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [*reversed(_channels(width)), width]
        self.levels = nn.Sequential(
            *(nn.Sequential(nn.Upsample(scale_factor=2), _convolution(ins, outs)) for ins, outs in pairwise(channels))
        )
        self.out = nn.Conv2d(width, 1, 3, padding=1)
        begin_black(self.out, -5.0)  # sigmoid(-5) is 0.007

    def forward(self, code: Tensor) -> Tensor:
        return torch.sigmoid(self.out(self.levels(code)))


class AutoEncoder(Reconstructor):
    """Four halvings, a bottleneck, four doublings, a sigmoid.

    Args:
        size: Side of the slices, a multiple of 16.
        width: Channels of the first level; they double to eight times that.
        bottleneck: ``dense``: `latent` numbers a slice. ``spatial``: `width` channels at a 16th of the side, which
            keep detail and also copy lesions. ``variational``: dense, with a divergence from N(0, 1).
        latent: Numbers of a dense bottleneck.
        kl_weight: Of the divergence, which is a mean over latent numbers and slices, in nats.
    """

    def __init__(
        self,
        size: int = 96,
        width: int = 16,
        bottleneck: Literal["dense", "spatial", "variational"] = "dense",
        latent: int = 128,
        kl_weight: float = 1e-3,
    ) -> None:
        super().__init__(size, 2**LEVELS)
        self.bottleneck, self.latent, self.kl_weight = bottleneck, latent, kl_weight
        deepest, side = _channels(width)[-1], size // 2**LEVELS
        self.encoder = _Encoder(width)
        self.squeeze = nn.Conv2d(deepest, width, 1)
        self.expand = nn.Conv2d(width, deepest, 1)
        if bottleneck != "spatial":
            numbers = 2 * latent if bottleneck == "variational" else latent
            self.to_latent = nn.Linear(width * side**2, numbers)
            self.from_latent = nn.Linear(latent, width * side**2)
        self.decoder = _Decoder(width)

    def reconstruct(self, image: Tensor) -> Tensor:
        """Of a variational bottleneck: from the mean."""
        code = self.squeeze(self.encoder(image))
        return self._decode(code if self.bottleneck == "spatial" else self._latent(code)[0], code.shape)

    def training_pass(self, image: Tensor, generator: torch.Generator) -> TrainingPass:
        """Of a variational bottleneck: from a sample, with the weighted divergence as penalty."""
        if self.bottleneck != "variational":
            return TrainingPass(self.reconstruct(image), image.new_zeros(()))
        code = self.squeeze(self.encoder(image))
        mean, log_variance = self._latent(code)
        sample = mean + (log_variance / 2).exp() * normal(tuple(mean.shape), mean, generator)
        divergence = (mean.square() + log_variance.exp() - 1 - log_variance).mean() / 2
        return TrainingPass(self._decode(sample, code.shape), self.kl_weight * divergence)

    def _latent(self, code: Tensor) -> tuple[Tensor, Tensor]:
        numbers = self.to_latent(code.flatten(1))
        if self.bottleneck == "dense":
            return numbers, numbers
        mean, log_variance = numbers.chunk(2, 1)
        return mean, log_variance.clamp(-10, 10)  # exp() stays finite early in training

    def _decode(self, code: Tensor, shape: torch.Size) -> Tensor:
        if self.bottleneck != "spatial":
            code = self.from_latent(code).view(shape)
        decoded: Tensor = self.decoder(self.expand(code))
        return decoded
