"""Eight views of each particle for the price of one: turns by 90 degrees and mirror images, exactly.

Turning an image in its plane is seeing the particle from a turned camera. Its mirror image is what a camera on the
other side sees, because a projection does not know front from back. Both only reorder pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TURN = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
_MIRROR = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
VIEWS = 8


class Views(nn.Module):
    """The eight ways to turn and mirror images about their centre D // 2.

    Args:
        size: Box size D, even.
    """

    matrices: Tensor
    pixels: Tensor
    waves: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        turns = [torch.linalg.matrix_power(_TURN, power) for power in range(4)]
        matrices = torch.stack([*turns, *(turn @ _MIRROR for turn in turns)])
        axis = torch.arange(size) - size // 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        frequency = torch.fft.fftfreq(size, 1 / size).long()
        fy, fx = torch.meshgrid(frequency, frequency[: size // 2 + 1], indexing="ij")
        pixels, waves = [], []
        for matrix in matrices.long():
            back = matrix[:2, :2].T
            x0, y0 = ((back[row, 0] * x + back[row, 1] * y + size // 2) % size for row in (0, 1))
            pixels.append((y0 * size + x0).flatten())
            kx, ky = ((back[row, 0] * fx + back[row, 1] * fy) for row in (0, 1))
            # rfft2 holds half of the plane; the other half mirrors it.
            sign = torch.where((kx < 0) & (kx > -(size // 2)), -1, 1)
            kx, ky = (sign * kx).abs(), (sign * ky) % size
            waves.append((ky * (size // 2 + 1) + kx).flatten())
        self.register_buffer("matrices", matrices, persistent=False)
        self.register_buffer("pixels", torch.stack(pixels), persistent=False)
        self.register_buffer("waves", torch.stack(waves), persistent=False)

    def images(self, images: Tensor, views: Tensor) -> Tensor:
        """Each image (b, D, D) in its view (b,), 0 to 7."""
        return images.flatten(1).gather(1, self.pixels[views]).view_as(images)

    def transfer(self, ctf: Tensor, views: Tensor) -> Tensor:
        """Real transfer functions (b, D, D // 2 + 1) that belong to the images."""
        return ctf.flatten(1).gather(1, self.waves[views]).view_as(ctf)

    def rotations(self, rotations: Tensor, views: Tensor) -> Tensor:
        """Rotations (b, 3, 3) that belong to the images."""
        return self.matrices[views] @ rotations

    def shifts(self, shifts: Tensor, views: Tensor) -> Tensor:
        """Shifts (b, 2) that belong to the images."""
        return (self.matrices[views, :2, :2] @ shifts[..., None])[..., 0]
