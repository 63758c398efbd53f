"""Scanlines by numba: per row the exact span of a Gaussian, along it two multiplications instead of an exponential."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from recipes.gaussian_image.rasterizers.gaussians import CUT, check_gaussians, half_extents
from recipes.gaussian_image.rasterizers.pairs import gradients

Array = NDArray[Any]

BAND = 32  # rows that one task draws
CHUNK = 512  # Gaussians whose gradient one task computes
CELL = 32  # side in pixels of the cells by which Gaussians are ordered
LN_2, LOG2_E = math.log(2.0), 1.0 / math.log(2.0)
CHANNELS = 3  # channels that the kernels treat at once


def rasterize(means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int) -> Tensor:
    """Sum of Gaussians by scanlines on the CPU; arguments, image and errors as :func:`reference.rasterize`.

    Runs on ``torch.get_num_threads()`` threads. Every pixel adds its Gaussians and every gradient its rows in an
    order that does not depend on them, so the result is the same to the last bit for any number of threads.

    Args:
        means: Centres x, y in pixels, (N, 2), float32.
        conics: Inverse covariances, (N, 3), float32.
        colors: Colours, (N, C), float32.
        height: Rows.
        width: Columns.

    Returns:
        The image, (height, width, C).

    Raises:
        ValueError: See :func:`check_gaussians`.
    """
    check_gaussians(means, conics, colors, height, width, device_type="cpu")
    image: Tensor = SpanSum.apply(means, conics, colors, height, width)
    return image


class SpanSum(torch.autograd.Function):
    """The sum with its analytic gradient."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int) -> Tensor:
        """Bands of rows, each drawn by one task."""
        ctx.save_for_backward(means, conics, colors)
        ctx.order = order = _neighbours_together(means, height, width)
        geometry, ordered = _geometry(means[order], conics[order], height), colors[order]
        parts = []
        for begin in range(0, colors.shape[1], CHANNELS):
            part = np.zeros((height, width, CHANNELS), np.float32)
            _in_threads(_draw, height, BAND, *geometry, _three(ordered, begin), part)
            parts.append(torch.from_numpy(part))
        return parts[0] if colors.shape[1] == CHANNELS else torch.cat(parts, dim=2)[..., : colors.shape[1]]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        """Chunks of Gaussians, each Gaussian's gradient summed by one task alone."""
        means, conics, colors = ctx.saved_tensors
        order: Tensor = ctx.order
        geometry, ordered = _geometry(means[order], conics[order], upstream.shape[0]), colors[order]
        sums = torch.zeros(colors.shape[0], 5, dtype=torch.float64)
        parts = []
        for begin in range(0, colors.shape[1], CHANNELS):
            part = np.zeros((colors.shape[0], CHANNELS), np.float32)
            arrays = (*geometry, _three(ordered, begin), _three(upstream, begin), sums.numpy(), part)
            _in_threads(_pull, colors.shape[0], CHUNK, *arrays)
            parts.append(torch.from_numpy(part))
        of_colors = torch.cat(parts, dim=1)[:, : colors.shape[1]]
        of_means, of_conics = gradients(sums, conics[order])
        back = torch.empty_like(order)
        back[order] = torch.arange(order.shape[0])
        return of_means[back], of_conics[back], of_colors[back], None, None


def _neighbours_together(means: Tensor, height: int, width: int) -> Tensor:
    """An order in which Gaussians that share pixels, hence cache lines, follow one another, (N,)."""
    side = CELL
    # At most 2^16 cells: numpy sorts such numbers by radix.
    while (height // side + 1) * (width // side + 1) > 2**16:
        side *= 2
    column = means[:, 0].clamp(0, width - 1).div(side).int()
    row = means[:, 1].clamp(0, height - 1).div(side).int()
    cell = row * (width // side + 1) + column
    return torch.from_numpy(np.argsort(cell.numpy().astype(np.uint16), kind="stable"))


def _three(values: Tensor, begin: int) -> Array:
    """Three channels from ``begin`` on, with zeros for those that are not there."""
    part = values[..., begin : begin + CHANNELS]
    if part.shape[-1] < CHANNELS:
        part = torch.nn.functional.pad(part, (0, CHANNELS - part.shape[-1]))
    three: Array = part.contiguous().numpy()
    return three


def _geometry(means: Tensor, conics: Tensor, height: int) -> tuple[Array, Array, Array]:
    """Means, conics, and the first row and the row after the last of each Gaussian inside the image, (N, 2)."""
    y, extent = means[:, 1].double(), half_extents(conics)[:, 1]
    first = (y - extent - 0.5).ceil().clamp(0, height)
    last = ((y + extent - 0.5).floor() + 1).clamp(0, height)
    return means.numpy(), conics.numpy(), torch.stack([first, last], dim=1).int().numpy()


def _in_threads(kernel: Callable[..., None], total: int, step: int, *arrays: Array) -> None:
    """Run ``kernel(begin, end, *arrays)``, which releases the interpreter's lock, on as many threads as torch uses."""

    def task(begin: int) -> None:
        kernel(begin, min(begin + step, total), *arrays)

    begins = range(0, total, step)
    threads = min(torch.get_num_threads(), len(begins))
    if threads <= 1:
        for begin in begins:
            task(begin)
    else:
        list(_pool(threads, os.getpid()).map(task, begins))


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Threads that stay. Those of another process do not survive its fork, hence its number in the key."""
    return ThreadPoolExecutor(threads, thread_name_prefix=f"gaussian-rows-{process}")


# Division by zero gives infinity, and a product and a sum may share one instruction: what vector code needs.
_kernel = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})


@njit(inline="always", error_model="numpy", fastmath={"contract"})
def _exp(x: float) -> float:
    """The exponential to 3e-10 relative, clipped to |x| <= 700; unlike the library's it can run in vector code.

    exp(x) = 2^n exp(f) with |f| <= ln 2 / 2; exp(f) is its Taylor sum to f^8, 2^n is written as a float's exponent.
    """
    x = min(max(x, -700.0), 700.0)
    n = math.floor(x * LOG2_E + 0.5)
    f = x - n * LN_2
    f2 = f * f
    high = (1 / 24 + f * (1 / 120)) + f2 * (1 / 720 + f * (1 / 5040)) + f2 * f2 * (1 / 40320)
    return ((1 + f) + f2 * (0.5 + f * (1 / 6)) + f2 * f2 * high) * np.int64((np.int64(n) + 1023) << 52).view(np.float64)


@_kernel
def _spans(mean: Array, conic: Array, first: int, last: int, width: int, pixels: Array, weights: Array) -> None:
    """Where a Gaussian lies in the rows [first, last), and what its recurrence starts with.

    A loop of its own, without branches, so that the compiler makes vector code of it.

    Args:
        mean: x, y.
        conic: Q11, Q12, Q22.
        first: First row.
        last: Row after the last.
        width: Columns of the image.
        pixels: Filled with the first column and the one after the last, uint32, (2, rows).
        weights: Filled with the weight in the first column and its ratio to the next one's, float64, (2, rows).
    """
    mx, my = np.float64(mean[0]), np.float64(mean[1])
    q11, q12, q22 = np.float64(conic[0]), np.float64(conic[1]), np.float64(conic[2])
    l11, slope, vertical = math.sqrt(q11), q12 / q11, (q11 * q22 - q12 * q12) / q11
    reach, right_end = 1 / l11, float(width)
    begins, ends, starts, ratios = pixels[0], pixels[1], weights[0], weights[1]
    for i in range(last - first):
        dy = np.int64(first + i) + 0.5 - my
        # Along the row the exponent is a parabola around `centre`; it passes the cut `half` to both sides.
        rest = max(2 * CUT - vertical * dy * dy, 0.0)
        centre, half = mx - slope * dy - 0.5, math.sqrt(rest) * reach
        # Clipped before they become integers, which a far away mean would overflow.
        left = min(max(math.ceil(centre - half), 0.0), right_end)
        right = min(max(math.floor(centre + half) + 1.0, 0.0), right_end)
        u = l11 * (left - centre)
        begins[i], ends[i] = np.int64(left), np.int64(right)
        starts[i] = _exp(0.5 * rest - CUT - 0.5 * u * u)
        ratios[i] = _exp(-l11 * (u + 0.5 * l11))


@_kernel
def _draw(begin: int, end: int, means: Array, conics: Array, rows: Array, colors: Array, image: Array) -> None:
    """Add all Gaussians to the rows [begin, end)."""
    pixels, weights = np.empty((2, end - begin), np.uint32), np.empty((2, end - begin))
    for n in range(means.shape[0]):
        first, last = max(rows[n, 0], begin), min(rows[n, 1], end)
        if first >= last:
            continue
        _spans(means[n], conics[n], first, last, image.shape[1], pixels, weights)
        c0, c1, c2 = colors[n, 0], colors[n, 1], colors[n, 2]
        curvature = math.exp(-np.float64(conics[n, 0]))
        for i in range(last - first):
            line = image[first + i]
            weight, ratio = weights[0, i], weights[1, i]
            for x in range(pixels[0, i], pixels[1, i]):
                w = np.float32(weight)
                line[x, 0] += w * c0
                line[x, 1] += w * c1
                line[x, 2] += w * c2
                # In float64: after n steps the relative error is n^2 / 2 times 1e-16, nothing for any row.
                weight *= ratio
                ratio *= curvature


@_kernel
def _pull(
    begin: int,
    end: int,
    means: Array,
    conics: Array,
    rows: Array,
    colors: Array,
    above: Array,
    sums: Array,
    of_colors: Array,
) -> None:
    """Add to the five moments of the Gaussians [begin, end), and write their colours' gradients."""
    height, width = above.shape[:2]
    pixels, weights = np.empty((2, height), np.uint32), np.empty((2, height))
    for n in range(begin, end):
        first, last = rows[n, 0], rows[n, 1]
        _spans(means[n], conics[n], first, last, width, pixels, weights)
        c0, c1, c2 = colors[n, 0], colors[n, 1], colors[n, 2]
        curvature = math.exp(-np.float64(conics[n, 0]))
        g0 = g1 = g2 = ex = ey = exx = exy = eyy = 0.0
        for i in range(last - first):
            line = above[first + i]
            weight, ratio = weights[0, i], weights[1, i]
            s0 = s1 = s2 = step = 0.0
            for x in range(pixels[0, i], pixels[1, i]):
                v0, v1, v2 = line[x, 0], line[x, 1], line[x, 2]
                g0 += weight * v0
                g1 += weight * v1
                g2 += weight * v2
                e = weight * (c0 * v0 + c1 * v1 + c2 * v2)
                s0 += e
                s1 += e * step
                s2 += e * step * step
                step += 1.0
                weight *= ratio
                ratio *= curvature
            dx, dy = pixels[0, i] + 0.5 - means[n, 0], first + i + 0.5 - means[n, 1]
            row = s1 + dx * s0
            ex += row
            ey += dy * s0
            exx += s2 + 2 * dx * s1 + dx * dx * s0
            exy += dy * row
            eyy += dy * dy * s0
        sums[n, 0] += ex
        sums[n, 1] += ey
        sums[n, 2] += exx
        sums[n, 3] += exy
        sums[n, 4] += eyy
        of_colors[n, 0], of_colors[n, 1], of_colors[n, 2] = g0, g1, g2
