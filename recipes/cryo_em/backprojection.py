"""What an image shows beyond the base map, brought back to where it lies in the molecule.

An image tells about a conformation only together with where it was seen from. Back-projection is the adjoint of image
formation: an image's residual, what it shows beyond the base map seen through the same microscope, times the CTF, is
read at the pixel where each voxel projects to. Every linear estimate of a deformation is made from these numbers, and
a deformation leaves alike ones whatever the view; an encoder behind them need not learn each orientation by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import grid_sample, max_pool3d

from recipes.cryo_em.projector import Projector, trilinear
from recipes.cryo_em.support import positions_of, sphere

SIDE = 16
"""Nodes along an edge of the box: deformations are coarse, and more nodes are more noise to learn by heart."""
BLUR = 0.5
"""Standard deviation of the Gaussian blur before nodes are read, of the distance between them."""


class BackProjection(nn.Module):
    """Back-projected residuals at the nodes of a coarse grid in the sphere; 0 at nodes beside the support.

    Nodes are the same for every support, so that an encoder keeps its weights when the support changes.

    Args:
        size: Box size D, even.
        side: Nodes along an edge of the box; with D or more, each voxel is a node and nothing is blurred.

    Attributes:
        nodes: (V, 3), (x, y, z) in voxels from the centre.

    Example:
        >>> back = BackProjection(8, side=4)
        >>> image = torch.randn(5, 8, 8)
        >>> batch = {"image": image, "rotation": torch.eye(3).expand(5, 3, 3), "shift": torch.zeros(5, 2)}
        >>> back(batch, torch.zeros(1), torch.zeros(1, 3)).shape == (5, len(back.nodes))
        True
    """

    nodes: Tensor
    inside: Tensor
    blur: Tensor

    def __init__(self, size: int, side: int = SIDE) -> None:
        super().__init__()
        self.size, self.side = size, min(side, size)
        spacing = size / self.side
        nodes = positions_of(sphere(self.side)) * spacing
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("inside", torch.ones(len(nodes)), persistent=False)
        self.project = Projector(size)
        width = BLUR * spacing if spacing > 1 else 0.0
        blur = torch.exp(-2 * (math.pi * width) ** 2 * (self.project.fy**2 + self.project.fx**2))
        blur[0, 0] = 0  # means carry background, not density
        self.register_buffer("blur", blur, persistent=False)

    def place(self, mask: Tensor) -> None:
        """Follow the support, bool (D, D, D): nodes less than a node's distance from it remain."""
        reach = math.ceil(self.size / self.side) - 1
        near = max_pool3d(mask[None, None].float(), 2 * reach + 1, 1, reach)[0, 0]
        self.inside = (trilinear(near, self.nodes.to(near)) > 0.5).float()

    def forward(self, batch: Mapping[str, Tensor], densities: Tensor, positions: Tensor) -> Tensor:
        """Numbers (b, V); white noise of variance 1 in an image becomes noise of variance about 1.

        Args:
            batch: ``image`` (b, D, D), ``rotation`` (b, 3, 3), ``shift`` (b, 2), perhaps ``ctf`` (b, D, D // 2 + 1).
            densities: The base map's, (M,), on the voxels of the support.
            positions: Of those voxels, (M, 3), in voxels from the centre.
        """
        rotation, shift = batch["rotation"], batch["shift"]
        expected = self.project(densities.expand(len(rotation), -1), positions, rotation, shift)
        passed = self.blur.expand(len(rotation), -1, -1)
        if "ctf" in batch:
            expected, passed = expected * batch["ctf"], passed * batch["ctf"]
        residual = (torch.fft.rfft2(batch["image"]) - expected) * passed * self.project.phase(-shift)
        images = self.project.images(residual)
        images = images / passed.square().mean((1, 2), keepdim=True).sqrt().clamp(min=1e-6)
        pixels = rotation[:, :2] @ self.nodes.T + self.size // 2  # (b, 2, V)
        places = (2 * pixels / (self.size - 1) - 1).mT[:, :, None]
        return grid_sample(images[:, None], places, align_corners=True)[:, 0, :, 0] * self.inside
