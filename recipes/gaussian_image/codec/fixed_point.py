"""Integer arithmetic of the entropy model: the same numbers on every machine, or the stream cannot be decoded.

Float products of matrices differ in the last bit between BLAS builds and thread counts, and `exp` and `tanh` between C
libraries. So nothing here rounds in an order or a library of its own choosing:

- activations are integers in units of 2^-12 and weights integers in units of 2^-14, both bounded so that every partial
  sum of a product is an integer below 2^53. A float64 matrix product of such integers is exact in any order of
  summation, with or without fused multiply-add, on any number of threads;
- ReLU, shifts and divisions are on int64;
- softplus and tanh are tables of integers, made with `decimal`, whose `exp` and `ln` are correctly rounded by
  definition, and linear interpolation between them in int64.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Ints = NDArray[np.int64]

ACTIVATION_BITS = 12
"""Activations count in units of 2^-12, and lie within +-256."""
WEIGHT_BITS = 14
"""Weights count in units of 2^-14, and lie within +-128."""
VALUE_BITS = 20
"""Outputs of the tables, quantisation steps and scales count in units of 2^-20."""
MAX_WIDTH = 2048
"""Inputs of a layer: 2^11 products below 2^20 * 2^21, and a bias, stay below 2^53."""
_ACTIVATION_LIMIT = (1 << 20) - 1
_WEIGHT_LIMIT = (1 << 21) - 1
_KNOT_BITS = 6
_KNOT_RANGE = 16


def to_fixed(values: ArrayLike, bits: int) -> Ints:
    """Values as integers in units of 2^-bits, halves to even.

    Args:
        values: Any shape, finite.
        bits: Bits after the point, 0 to 30.

    Example:
        >>> to_fixed([0.25, -1.0], 4).tolist()
        [4, -16]
    """
    return np.rint(np.asarray(values, dtype=np.float64) * (1 << bits)).astype(np.int64)


def shift_round(values: Ints, bits: int) -> Ints:
    """Divide by 2^bits and round to the nearest integer, halves up.

    Example:
        >>> shift_round(np.array([5, 6, -6]), 2).tolist()
        [1, 2, -1]
    """
    return (values + (1 << (bits - 1))) >> bits


def divide_round(numerator: Ints, denominator: Ints) -> Ints:
    """Divide by a positive integer and round to the nearest integer, halves up.

    Example:
        >>> divide_round(np.array([7, -7, 5]), np.array([2, 2, 10])).tolist()
        [4, -3, 1]
    """
    return (2 * numerator + denominator) // (2 * denominator)


def linear(inputs: Ints, weight: ArrayLike, bias: ArrayLike) -> Ints:
    """Exact fully connected layer.

    Args:
        inputs: (N, I) in units of 2^-12; clipped to +-256.
        weight: (O, I) floats, rounded to units of 2^-14 and clipped to +-128.
        bias: (O,) floats, likewise.

    Returns:
        (N, O) in units of 2^-12.

    Raises:
        ValueError: More than 2048 inputs, for which sums could exceed what float64 holds exactly.
    """
    weights = np.clip(to_fixed(weight, WEIGHT_BITS), -_WEIGHT_LIMIT, _WEIGHT_LIMIT)
    if weights.shape[1] > MAX_WIDTH:
        raise ValueError(f"a layer of the entropy model has {weights.shape[1]} inputs; at most {MAX_WIDTH} are exact")
    offset = np.clip(to_fixed(bias, WEIGHT_BITS), -_WEIGHT_LIMIT, _WEIGHT_LIMIT) << ACTIVATION_BITS
    clipped = np.clip(inputs, -_ACTIVATION_LIMIT, _ACTIVATION_LIMIT)
    products = clipped.astype(np.float64) @ weights.T.astype(np.float64)
    return shift_round(products.astype(np.int64) + offset, WEIGHT_BITS)


def relu(values: Ints) -> Ints:
    """Zero where negative."""
    return np.maximum(values, 0)


@lru_cache(maxsize=2)
def _knots(function: str) -> Ints:
    """Softplus or 1 + tanh at multiples of 2^-6 in [-16, 16], in units of 2^-20."""
    exact = Context(prec=40)
    values = []
    for knot in range(-_KNOT_RANGE << _KNOT_BITS, (_KNOT_RANGE << _KNOT_BITS) + 1):
        x = exact.divide(Decimal(knot), Decimal(1 << _KNOT_BITS))
        if function == "softplus":
            value = exact.ln(exact.add(Decimal(1), exact.exp(x)))
        else:
            value = exact.divide(Decimal(2), exact.add(Decimal(1), exact.exp(exact.multiply(Decimal(-2), x))))
        values.append(int(exact.to_integral_value(exact.multiply(value, Decimal(1 << VALUE_BITS)))))
    return np.array(values, dtype=np.int64)


def _interpolate(table: Ints, values: Ints) -> Ints:
    """Piecewise linear between the knots; values in units of 2^-12, beyond the last knot as at it."""
    step = ACTIVATION_BITS - _KNOT_BITS
    limit = _KNOT_RANGE << ACTIVATION_BITS
    shifted = np.clip(values, -limit, limit) + limit
    left = np.minimum(shifted >> step, len(table) - 2)
    rest = shifted - (left << step)
    return table[left] + shift_round((table[left + 1] - table[left]) * rest, step)


def softplus(values: Ints) -> Ints:
    """ln(1 + e^x), to 1e-5.

    Args:
        values: In units of 2^-12, any shape.

    Returns:
        In units of 2^-20.

    Example:
        >>> round(softplus(np.array([0])).item() / 2**20, 4)
        0.6931
    """
    above = np.maximum(values - (_KNOT_RANGE << ACTIVATION_BITS), 0) << (VALUE_BITS - ACTIVATION_BITS)
    return _interpolate(_knots("softplus"), values) + above


def one_plus_tanh(values: Ints) -> Ints:
    """1 + tanh(x), to 1e-4.

    Args:
        values: In units of 2^-12, any shape.

    Returns:
        In units of 2^-20, between 0 and 2.

    Example:
        >>> (one_plus_tanh(np.array([0, 1 << 20])) >> 20).tolist()
        [1, 2]
    """
    return _interpolate(_knots("tanh"), values)
