"""Layers computed the slow way: unrolled into vectors, one output position and one block of rows after another."""

import itertools
import math

import numpy as np
from torch import nn

_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def blocks_of_rows(layer, x, rows=None, weight=None):
    """Partial sums of each block of rows: arrays of the output's shape, without the bias.

    Args:
        layer: Linear on (batch, inputs), or a convolution on (batch, channels, *size) with numeric padding.
        x: The input tensor.
        rows: Rows of a block.
        weight: Instead of the layer's.
    """
    weight = (layer.weight if weight is None else weight).detach().double().numpy()
    vectors, size = (x.detach().double().numpy()[None], ()) if isinstance(layer, nn.Linear) else patches(layer, x)
    groups, batch, total = vectors.shape[0], x.shape[0], vectors.shape[-1]
    columns = weight.reshape(groups, -1, total)
    rows = total if rows is None else rows
    sums = []
    for start in range(0, total, rows):
        block = np.zeros((batch, len(weight), *size))
        for group, n, position in itertools.product(range(groups), range(batch), np.ndindex(*size)):
            vector = vectors[(group, n, *position)]
            for column in range(columns.shape[1]):
                found = 0.0
                for row in range(start, min(start + rows, total)):
                    found += columns[group, column, row] * vector[row]
                block[(n, group * columns.shape[1] + column, *position)] = found
        sums.append(block)
    return sums


def patches(layer, x):
    """The unrolled input, (groups, batch, *positions, inputs of a group times kernel), and the number of positions."""
    x = x.detach().double().numpy()
    pad = [(0, 0), (0, 0), *((p, p) for p in layer.padding)]
    x = np.pad(x, pad, mode=_MODES[layer.padding_mode])
    reach = [d * (k - 1) + 1 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    size = [(n - r) // s + 1 for n, r, s in zip(x.shape[2:], reach, layer.stride, strict=True)]
    inputs = layer.in_channels // layer.groups
    found = np.zeros((layer.groups, len(x), *size, inputs * math.prod(layer.kernel_size)))
    for group, n, position in itertools.product(range(layer.groups), range(len(x)), np.ndindex(*size)):
        taps = itertools.product(range(inputs), np.ndindex(*layer.kernel_size))
        for row, (channel, tap) in enumerate(taps):
            at = [p * s + t * d for p, s, t, d in zip(position, layer.stride, tap, layer.dilation, strict=True)]
            found[(group, n, *position, row)] = x[(n, group * inputs + channel, *at)]
    return found, tuple(size)
