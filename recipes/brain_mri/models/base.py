"""What every reconstruction model offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor, nn


class TrainingPass(NamedTuple):
    """One pass in training.

    Attributes:
        reconstruction: (B, 1, H, W), to be compared with the image; not clamped.
        penalty: A number to add to the loss, such as a divergence.
    """

    reconstruction: Tensor
    penalty: Tensor


class Reconstructor(nn.Module, ABC):
    """Learns to reproduce healthy slices; where it fails on others is the anomaly map.

    Slices are (B, 1, size, size) in [0, 1]. A call is `reconstruct`, so that hooks and chips see it.

    Args:
        size: Side of the square slices, a multiple of `factor`.
        factor: By how much the network shrinks a side.

    Raises:
        ValueError: A size that the network cannot halve often enough.
    """

    def __init__(self, size: int, factor: int) -> None:
        super().__init__()
        if size < factor or size % factor:
            raise ValueError(f"size={size}: this model halves slices down; give a multiple of {factor}")
        self.size = size

    def forward(self, image: Tensor) -> Tensor:
        """`reconstruct`."""
        self._check(image)
        return self.reconstruct(image)

    @abstractmethod
    def reconstruct(self, image: Tensor) -> Tensor:
        """The reconstruction at test time, (B, 1, H, W) in [0, 1]; the same for the same slices."""

    @abstractmethod
    def training_pass(self, image: Tensor, generator: torch.Generator) -> TrainingPass:
        """One pass in training.

        Args:
            image: (B, 1, H, W), the target.
            generator: On the CPU; the only source of randomness.
        """

    def _check(self, image: Tensor) -> None:
        if image.ndim != 4 or image.shape[1:] != (1, self.size, self.size):
            raise ValueError(
                f"slices of shape {tuple(image.shape)}: the model was built for (B, 1, {self.size}, {self.size});"
                " give data and model the same size"
            )


def begin_black(last: nn.Conv2d, value: float) -> None:
    """Let a network's last layer begin with the same value everywhere, the one that stands for black.

    The clamped DSSIM has no gradient where SSIM is negative, which is most of the brain of a network that begins with
    noise: it then learns to leave the brain black, and stays so. Beside a black picture SSIM is above 0 everywhere.

    Args:
        last: Its weights become 0.
        value: Of its biases.
    """
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.constant_(last.bias, value)


def normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normals, drawn on the CPU, so that they are the same on every device."""
    return torch.randn(shape, generator=generator).to(like)
