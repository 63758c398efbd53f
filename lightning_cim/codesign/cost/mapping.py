"""How layers lie on crossbars: tiles of rows and columns, conversions, duplicates.

Everything here broadcasts: numbers of one design or arrays of many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_cim.codesign.cost.hardware import Hardware
from lightning_cim.codesign.cost.layers import Array, LayerShape

PE_SIDE, TILE_SIDE = 4, 8
"""Crossbars along the side of NeuroSim's smallest processing element (one tap of a split kernel) and tile (others)."""


@dataclass(frozen=True)
class Placement:
    """One layer on crossbars, one copy of it.

    Attributes:
        slices: Cells a weight takes side by side.
        row_tiles: Crossbars over the rows.
        column_tiles: Crossbars over the columns.
        crossbars: Crossbars in all, of all groups.
        utilisation: Share of their cells that hold weights.
        conversions: Of columns, for one sample.
        active_rows: Mean rows of a conversion whose input bit is 1.
        is_split: Whether each tap of the kernel has crossbars of its own.
    """

    slices: Any
    row_tiles: Any
    column_tiles: Any
    crossbars: Any
    utilisation: Any
    conversions: Any
    active_rows: Any
    is_split: Any


def place(layer: LayerShape, hardware: Hardware) -> Placement:
    """Put a layer on crossbars.

    Example:
        >>> from lightning_cim.codesign.cost import Hardware, LayerShape, place
        >>> found = place(LayerShape("conv", 128, 256, taps=9), Hardware(xbar=128, cell_bits=2))
        >>> int(found.row_tiles), int(found.column_tiles), int(found.crossbars), float(found.utilisation)
        (9, 8, 72, 1.0)
    """
    side = hardware.xbar
    slices = ceil_div(hardware.weight_bits, hardware.cell_bits) * (2 if hardware.signed == "differential" else 1)
    channels = layer.c_in // layer.groups
    rows, columns = layer.taps * channels, layer.c_out // layer.groups * slices
    is_split = np.logical_and(rows > side, layer.taps > 1) if hardware.mapping == "kernel-split" else np.False_
    row_tiles = np.where(is_split, layer.taps * ceil_div(channels, side), ceil_div(rows, side))
    column_tiles = ceil_div(columns, side)
    reads: Any = 1
    if hardware.parallel_rows is not None:
        reads = ceil_div(np.minimum(np.where(is_split, channels, rows), side), hardware.parallel_rows)
    return Placement(
        slices=slices,
        row_tiles=row_tiles,
        column_tiles=column_tiles,
        crossbars=layer.groups * row_tiles * column_tiles,
        utilisation=rows * columns / (row_tiles * column_tiles * side * side),
        conversions=layer.positions * hardware.input_bits * layer.groups * row_tiles * reads * columns,
        active_rows=rows / (row_tiles * reads) * layer.bit_density,
        is_split=is_split,
    )


@dataclass(frozen=True)
class Allocation:
    """Crossbars that layers get in whole tiles, none of which two layers share, and what that allows.

    Attributes:
        crossbars: Of each layer, unused ones included.
        duplicates: Copies of each layer that compute at the same time.
        tiles: Of each layer.
    """

    crossbars: list[Any]
    duplicates: list[Any]
    tiles: list[Any]


def allocate(
    layers: Sequence[LayerShape], placements: Sequence[Placement], hardware: Hardware, capped: bool = True
) -> Allocation:
    """Give each layer whole tiles, as NeuroSim's printouts show it does.

    All tiles of a chip are alike: their side is that of the largest layer, a power of two of crossbars, but not over 8
    crossbars (4 for the processing elements of split kernels, of which a tile has one a tap). This reproduces the
    crossbars, tiles and duplicates of the reference runs.

    Args:
        layers: Shapes.
        placements: Of the layers, as :func:`place` gives them.
        hardware: The same.
        capped: Whether more copies than a layer has positions do not count, as they are of no use.
    """
    side = hardware.xbar
    shapes = [
        # Inputs and columns of one processing element of a split kernel, or of the whole matrix.
        (np.where(at.is_split, layer.c_in // layer.groups, layer.taps * layer.c_in // layer.groups),
         layer.c_out // layer.groups * at.slices)
        for layer, at in zip(layers, placements, strict=True)
    ]  # fmt: skip
    largest_pe: Any = side
    largest_tile: Any = side
    for (rows, columns), at in zip(shapes, placements, strict=True):
        own = side * 2 ** np.ceil(np.log2(np.maximum(np.maximum(rows, columns) / side, 1))).astype(int)
        largest_pe = np.where(at.is_split, np.maximum(largest_pe, own), largest_pe)
        largest_tile = np.where(at.is_split, largest_tile, np.maximum(largest_tile, own))
    pe, tile = np.minimum(largest_pe, PE_SIDE * side), np.minimum(largest_tile, TILE_SIDE * side)
    found = Allocation([], [], [])
    for layer, (rows, columns), at in zip(layers, shapes, placements, strict=True):
        block = np.where(at.is_split, pe, tile)
        if layer.groups == 1:
            tiles = ceil_div(rows, block) * ceil_div(columns, block)
            fit = _copies(block, rows, side) * _copies(block, columns, side)
        else:  # the small matrices of the groups share tiles
            room = (block // side) ** 2
            need = at.crossbars // np.where(at.is_split, layer.taps, 1)
            tiles, fit = ceil_div(need, room), np.maximum(room // need, 1)
        copies: Any = fit
        if hardware.duplication != "fill":
            tiles, copies = tiles * ceil_div(hardware.duplication, fit), hardware.duplication
        found.tiles.append(tiles)
        found.crossbars.append(tiles * np.where(at.is_split, layer.taps, 1) * (block // side) ** 2)
        found.duplicates.append(np.minimum(copies, layer.positions) if capped else copies)
    return found


def ceil_div(a: Any, b: Any) -> Any:
    """The quotient of whole numbers, rounded up.

    Example:
        >>> ceil_div(7, 2), ceil_div(8, 2)
        (4, 4)
    """
    return -(-a // b)


def _copies(block: Any, length: Any, side: Array | int) -> Any:
    """How often a matrix fits into a block along one of its sides, in whole crossbars."""
    return np.maximum(block // (side * ceil_div(length, side)), 1)
