"""A Gaussian blur over the voxels of a support.

What a voxel's features cannot know from few noisy images they borrow from their neighbours: without it the motion of a
feature table is mostly noise at the voxels' own scale.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

REACH = 2.5
"""The kernel ends at so many standard deviations."""


class Smoothing(nn.Module):
    """Blurs values on the support's voxels; nothing comes from outside.

    Args:
        sigma: Standard deviation in voxels; 0 leaves values as they are.

    Raises:
        ValueError: A negative sigma.
    """

    kernel: Tensor

    def __init__(self, sigma: float) -> None:
        super().__init__()
        if sigma < 0:
            raise ValueError(f"smooth={sigma}: want a standard deviation in voxels, 0 for none")
        self.sigma = sigma
        self.register_buffer("kernel", torch.zeros(0), persistent=False)

    def place(self, mask: Tensor) -> None:
        """Follow the support, bool (D, D, D)."""
        if self.sigma == 0:
            return
        size, voxels = mask.shape[0], mask.nonzero()
        rows = torch.full(mask.shape, -1, device=mask.device)
        rows[mask] = torch.arange(len(voxels), device=mask.device)
        reach = int(REACH * self.sigma) + 1
        axis = torch.arange(-reach, reach + 1, device=mask.device)
        steps = torch.cartesian_prod(axis, axis, axis)
        steps = steps[steps.square().sum(1) <= (REACH * self.sigma) ** 2]
        weights = torch.exp(-steps.square().sum(1) / (2 * self.sigma**2))
        near = voxels[:, None] + steps
        inside = ((near >= 0) & (near < size)).all(-1)
        z, y, x = near.clamp(0, size - 1).unbind(-1)
        column = torch.where(inside, rows[z, y, x], -1)
        row, which = (column >= 0).nonzero(as_tuple=True)
        entries = torch.stack([row, column[row, which]])
        values = (weights / weights.sum())[which]
        matrix = torch.sparse_coo_tensor(entries, values, (len(voxels), len(voxels)), check_invariants=False)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            self.kernel = matrix.coalesce().to_sparse_csr()

    def forward(self, values: Tensor) -> Tensor:
        """Blurred values (b, M) of values (b, M)."""
        return values if self.sigma == 0 else _Symmetric.apply(self.kernel, values)


class _Symmetric(torch.autograd.Function):
    """Product with a sparse matrix that is its own transpose, so that its gradient is the same product."""

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, values: Tensor) -> Tensor:
        ctx.kernel = kernel
        return (kernel @ values.T).T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        return None, (ctx.kernel @ gradient.T.contiguous()).T
