"""The voltage that is lost along the wires of a crossbar, to first order in their resistance.

Derivation. Cell (k, j) with conductance g_kj lies on word line k = 1 .. N, counted from the end where bit lines are
sensed at 0 V, and on bit line j = 1 .. M, counted from the end where word line k is driven at v_k. Each piece of wire
between two cells, or between an end and its first cell, has the resistance R. With R = 0 the cell takes the current
g_kj v_k. These currents flow through the wires, and to first order in R

* piece s of bit line j carries sum_{i >= s} g_ij v_i, hence its node k is lifted by
  u_kj = R sum_{s <= k} sum_{i >= s} g_ij v_i;
* piece s of word line k carries v_k sum_{m >= s} g_km, hence its node j is lowered by
  R v_k sum_{s <= j} H_ks with H_ks = sum_{m >= s} g_km.

The current of bit line j lacks sum_k g_kj u_kj from the first and sum_k g_kj v_k R sum_{s <= j} H_ks from the second.
Exchanging the sums over i and k turns the first into R sum_k v_k g_kj sum_{s <= k} G_sj with G_sj = sum_{i >= s} g_ij.
No input is left in the factors of g_kj v_k, so that the array acts as if it had the conductances

    g_kj (1 - R sum_{s <= k} G_sj - R sum_{s <= j} H_ks),

with an error that falls as R^2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cim.chip.circuit import Circuit


def relative_drop(conductance: Tensor, wire_resistance: float) -> Tensor:
    """The share of each cell's current that the wires take, to first order.

    Args:
        conductance: (..., rows, columns) in siemens; row 1 lies next to where bit lines are sensed, column 1 next to
            where word lines are driven.
        wire_resistance: Of a bit line or word line from one cell to the next, in ohm.

    Returns:
        Of the same shape, >= 0; far above 1/10 the first order is too little.

    Example:
        >>> relative_drop(torch.tensor([[1e-3], [1e-3]]), 1.0)
        tensor([[0.0030],
                [0.0040]])
    """
    return (_lifted(conductance, -2) + _lifted(conductance, -1)) * wire_resistance


def _lifted(g: Tensor, dim: int) -> Tensor:
    """sum_{s <= k} sum_{i >= s} g_i along one axis."""
    beyond = g.sum(dim, keepdim=True) - g.cumsum(dim) + g
    return beyond.cumsum(dim)


def dropped_weight(weight: Tensor, circuit: Circuit, groups: int = 1) -> Tensor:
    """The weights that a layer's arrays act as if they held, given the resistance of their wires.

    A weight w of a layer whose largest magnitude is s lies on a differential pair, g+ = g_min + max(w, 0) / s (g_max -
    g_min) and g- likewise of -w, in two arrays of equal layout. Cells without a weight are not connected.

    Args:
        weight: (outputs, inputs, *kernel). Gradients pass, with s a constant.
        circuit: Its resistance, conductances, rows and columns; see :class:`Circuit`.
        groups: Groups of a convolution, which have arrays of their own.

    Returns:
        Of the weight's shape and dtype.
    """
    cells, scale = _conductances(weight, circuit, groups)
    cells = cells * (1 - relative_drop(cells, circuit.wire_resistance))
    return _weights(cells, scale, weight, circuit)


def largest_drop(weight: Tensor, circuit: Circuit, groups: int = 1) -> float:
    """The largest :func:`relative_drop` in a layer's arrays."""
    cells, _ = _conductances(weight.detach(), circuit, groups)
    drop = relative_drop(cells, circuit.wire_resistance)
    return float(drop[cells > 0].max()) if bool((cells > 0).any()) else 0.0


def _conductances(weight: Tensor, circuit: Circuit, groups: int) -> tuple[Tensor, Tensor]:
    """All pairs as (2, groups, blocks of rows, blocks of columns, rows, columns), and s."""
    assert circuit.g_max is not None
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scale = wide.detach().abs().amax().clamp(min=torch.finfo(wide.dtype).tiny)
    matrix = wide.reshape(groups, weight.shape[0] // groups, -1).transpose(1, 2) / scale
    pair = torch.stack([matrix.clamp(min=0), (-matrix).clamp(min=0)])
    cells = pair * (circuit.g_max - circuit.g_min) + circuit.g_min
    rows, cols = _array(matrix, circuit)
    cells = F.pad(cells, (0, -matrix.shape[2] % cols, 0, -matrix.shape[1] % rows))
    down, across = cells.shape[2] // rows, cells.shape[3] // cols
    return cells.reshape(2, groups, down, rows, across, cols).transpose(3, 4), scale


def _weights(cells: Tensor, scale: Tensor, weight: Tensor, circuit: Circuit) -> Tensor:
    """The inverse of :func:`_conductances`; ``weight`` gives shape and dtype."""
    assert circuit.g_max is not None
    matrix = (cells[0] - cells[1]).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    matrix = matrix[:, : weight[0].numel(), : weight.shape[0] // len(matrix)]
    relative = matrix / (circuit.g_max - circuit.g_min)
    return (relative * scale).transpose(1, 2).reshape(weight.shape).to(weight.dtype)


def _array(matrix: Tensor, circuit: Circuit) -> tuple[int, int]:
    rows, cols = matrix.shape[1:]
    return min(circuit.rows or rows, rows), min(circuit.cols or cols, cols)
