"""Masks that leave the same number of weights in every group or output channel, as sparse hardware needs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lightning_cim.chip.mapping import Mapping, output_dim
from lightning_cim.chip.transform import Stage, Stored, Transform


def nm_mask(weight: Tensor, n: int, m: int, dim: int = 0) -> Tensor:
    """Keep the n largest of each m consecutive weights along the flattened inputs of every output channel.

    A remainder group of fewer than m weights keeps at most n.

    Args:
        weight: At least 2 axes.
        n: Kept in a group, 0 <= n <= m.
        m: Size of a group.
        dim: The axis that counts output channels.

    Returns:
        bool mask of the weight's shape.

    Example:
        >>> nm_mask(torch.tensor([[0.1, -3.0, 2.0, 0.5]]), n=2, m=4).tolist()
        [[False, True, True, False]]
    """
    rows, shape = _rows(weight, dim)
    padded = torch.nn.functional.pad(rows, (0, -rows.shape[1] % m), value=-1.0).reshape(rows.shape[0], -1, m)
    kept = _largest(padded, n).flatten(1)[:, : rows.shape[1]]
    return _unrow(kept, shape, dim)


def balanced_mask(weight: Tensor, sparsity: float, dim: int = 0) -> Tensor:
    """Keep the same number of weights in every output channel: round(inputs * (1 - sparsity)) largest ones.

    Args:
        weight: At least 2 axes.
        sparsity: Share to prune, 0 <= sparsity < 1.
        dim: The axis that counts output channels.

    Returns:
        bool mask of the weight's shape.
    """
    rows, shape = _rows(weight, dim)
    return _unrow(_largest(rows, round(rows.shape[1] * (1 - sparsity))), shape, dim)


def _rows(weight: Tensor, dim: int) -> tuple[Tensor, torch.Size]:
    moved = weight.detach().movedim(dim, 0)
    return moved.flatten(1).abs().float(), moved.shape


def _unrow(rows: Tensor, shape: torch.Size, dim: int) -> Tensor:
    return rows.reshape(shape).movedim(0, dim)


def _largest(values: Tensor, count: int) -> Tensor:
    kept = torch.zeros_like(values, dtype=torch.bool)
    # A stable sort makes ties fall to the first weight, on every device.
    order = values.sort(dim=-1, descending=True, stable=True).indices[..., :count]
    return kept.scatter_(-1, order, torch.ones_like(order, dtype=torch.bool))


class _SparseRefined(torch.autograd.Function):
    """SR-STE (Zhou et al., ICLR 2021, arXiv 2102.04010): dense gradient plus decay * w on pruned weights."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, mask: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        weight, mask = ctx.saved_tensors
        return grads[0] + ctx.decay * (~mask) * weight, None, None


class Mask(Transform):
    """The chain's mask. Fixed masks by name, or one recomputed at each opening (SR-STE).

    Args:
        pattern: ``(n, m)``, or None for balanced channels.
        sparsity: Share to prune with balanced channels.
        refine: SR-STE's decay of pruned weights; None: masks are fixed by :meth:`update`.
        mapping: Which parameters are pruned.
    """

    stage = Stage.MASK

    def __init__(
        self,
        pattern: tuple[int, int] | None,
        sparsity: float,
        refine: float | None = None,
        mapping: Mapping | None = None,
    ) -> None:
        super().__init__(mapping)
        self.pattern, self.sparsity, self.refine = pattern, sparsity, refine
        self.masks: dict[str, Tensor] = {}

    def mask_of(self, weight: Tensor, dim: int, progress: float = 1.0) -> Tensor:
        """The mask of a weight; ``progress`` in [0, 1] is the share of the pruning that is done (gradual pruning)."""
        if self.pattern is None:
            return balanced_mask(weight, self.sparsity * progress, dim)
        n, m = self.pattern
        return nm_mask(weight, m - round((m - n) * progress), m, dim)

    def update(self, model: torch.nn.Module, progress: float = 1.0) -> None:
        """Fix new masks by the magnitude of the clean weights."""
        for target in self.mapping.resolve(model):
            parameter = target.sites[0].parameter
            assert parameter is not None
            self.masks[target.name] = self.mask_of(parameter, output_dim(target.layer), progress)

    def apply(self, stored: Stored) -> None:
        """Mask the value; parameters without a mask yet pass."""
        if self.refine is not None:
            stored.mask = self.mask_of(stored.value, output_dim(stored.layer))
            stored.value = _SparseRefined.apply(stored.value, stored.mask, self.refine)
        elif stored.name in self.masks:
            stored.mask = self.masks[stored.name] = self.masks[stored.name].to(stored.value.device)
            stored.value = stored.value * stored.mask
