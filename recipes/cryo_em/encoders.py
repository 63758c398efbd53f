"""From an image to numbers: a residual multilayer perceptron over its pixels, as cryoDRGN's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 0.85
"""Radius of the pixels that an encoder sees, of half the box: corners hold noise and neighbouring particles."""


class ImageEncoder(nn.Module):
    """Residual multilayer perceptron over the pixels in a circle.

    Each layer but the first adds to what it gets. With normalising layers, or behind a Wiener filter, the order of
    conformations was much worse after as many steps.

    Args:
        size: Box size D in pixels.
        outputs: Numbers per image.
        width: Of each hidden layer.
        depth: Hidden layers.

    Example:
        >>> ImageEncoder(8, outputs=5, width=16, depth=2)(torch.zeros(3, 8, 8)).shape
        torch.Size([3, 5])
    """

    window: Tensor

    def __init__(self, size: int, outputs: int, width: int = 128, depth: int = 10) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"encoder_depth={depth}: want at least one hidden layer")
        axis = torch.arange(size) - size // 2
        inside = axis[:, None] ** 2 + axis**2 <= (WINDOW * size / 2) ** 2
        self.register_buffer("window", inside.flatten().nonzero()[:, 0], persistent=False)
        self.first = nn.Linear(len(self.window), width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)

    def forward(self, images: Tensor) -> Tensor:
        """Numbers (b, outputs) of images (b, D, D) whose pixels have mean 0 and variance 1."""
        x = torch.relu(self.first(images.flatten(1)[:, self.window]))
        for layer in self.hidden:
            x = x + torch.relu(layer(x))
        return self.last(x)  # type: ignore[no-any-return]
