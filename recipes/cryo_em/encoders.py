"""From what is seen of a particle to numbers: a residual multilayer perceptron, as cryoDRGN's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WINDOW = 0.85
"""Radius of the pixels that an encoder sees, of half the box: corners hold noise and neighbouring particles."""


class Encoder(nn.Module):
    """Residual multilayer perceptron.

    Each layer but the first adds to what it gets. With normalising layers the order of conformations was much worse
    after as many steps.

    Args:
        inputs: Numbers it sees, of mean 0 and variance 1.
        outputs: Numbers it gives.
        width: Of each hidden layer.
        depth: Hidden layers.

    Example:
        >>> Encoder(7, outputs=5, width=16, depth=2)(torch.zeros(3, 7)).shape
        torch.Size([3, 5])
    """

    def __init__(self, inputs: int, outputs: int, width: int = 128, depth: int = 10) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"encoder_depth={depth}: want at least one hidden layer")
        self.first = nn.Linear(inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, outputs)

    def forward(self, seen: Tensor) -> Tensor:
        """Numbers (b, outputs) from (b, inputs)."""
        x = torch.relu(self.first(seen))
        for layer in self.hidden:
            x = x + torch.relu(layer(x))
        return self.last(x)  # type: ignore[no-any-return]


class ImageEncoder(Encoder):
    """An encoder of the pixels in a circle.

    Behind a Wiener filter the order of conformations was worse.

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
        axis = torch.arange(size) - size // 2
        inside = axis[:, None] ** 2 + axis**2 <= (WINDOW * size / 2) ** 2
        super().__init__(int(inside.sum()), outputs, width, depth)
        self.register_buffer("window", inside.flatten().nonzero()[:, 0], persistent=False)

    def forward(self, seen: Tensor) -> Tensor:
        """Numbers (b, outputs) of images (b, D, D) whose pixels have mean 0 and variance 1."""
        return super().forward(seen.flatten(1)[:, self.window])
