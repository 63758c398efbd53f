"""How far predicted images are from measured ones: the log-likelihood under white noise, up to constants."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

Domain = Literal["fourier", "real"]


class ImageLoss(nn.Module):
    """Mean squared difference per pixel, without the images' means.

    Args:
        size: Box size D, even.
        domain: ``fourier``: over all pixels, by Parseval's theorem on spectra; ``real``: over the pixels in a circle,
            for images whose corners hold neighbouring particles.
        radius: Of that circle, as a share of half the box.

    Raises:
        ValueError: An unknown domain, or a radius that is not positive.

    Example:
        >>> images = torch.randn(2, 8, 8)
        >>> zero = torch.zeros(2, 8, 5, dtype=torch.complex64)
        >>> loss = ImageLoss(8)(zero, images)
        >>> bool((loss - images.var((1, 2), unbiased=False).mean()).abs() < 1e-6)
        True
    """

    weights: Tensor
    window: Tensor

    def __init__(self, size: int, domain: Domain = "fourier", radius: float = 0.95) -> None:
        super().__init__()
        if domain not in ("fourier", "real"):
            raise ValueError(f"loss domain {domain!r}: want 'fourier' or 'real'")
        if radius <= 0:
            raise ValueError(f"loss radius {radius}: want a positive share of half the box")
        self.size, self.domain = size, domain
        weights = torch.full((size, size // 2 + 1), 2.0)  # the half plane stands for both
        weights[:, 0] = weights[:, -1] = 1
        weights[0, 0] = 0  # means carry background, not density
        self.register_buffer("weights", weights / size**4, persistent=False)
        axis = torch.arange(size) - size // 2
        inside = (axis[:, None] ** 2 + axis**2 <= (radius * size / 2) ** 2).float()
        self.register_buffer("window", inside, persistent=False)

    def forward(self, predicted: Tensor, images: Tensor) -> Tensor:
        """The loss.

        Args:
            predicted: Spectra (b, D, D // 2 + 1), the CTF applied.
            images: (b, D, D).
        """
        if self.domain == "fourier":
            difference = predicted - torch.fft.rfft2(images)
            return (torch.view_as_real(difference).square().sum(-1) * self.weights).sum() / len(images)
        difference = (torch.fft.irfft2(predicted, s=images.shape[-2:]) - images) * self.window
        mean = difference.sum((1, 2), keepdim=True) / self.window.sum()
        return ((difference - mean) * self.window).square().sum() / self.window.sum() / len(images)  # type: ignore[no-any-return]
