"""What every rasterizer agrees on: which Gaussians are legal, where a Gaussian ends, and its triangular factor."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# A Gaussian ends where its weight exp(-s) falls below 1/255: one step of an 8-bit image.
CUT = math.log(255.0)


def check_gaussians(
    means: Tensor,
    conics: Tensor,
    colors: Tensor,
    height: int,
    width: int,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    device_type: str | None = None,
) -> None:
    """Refuse what cannot be drawn.

    Args:
        means: Centres x, y in pixels, (N, 2).
        conics: Q11, Q12, Q22 of the inverse covariance, per square pixel, (N, 3).
        colors: Colours of any sign, (N, C).
        height: Rows of the image, at least 1.
        width: Columns of the image, at least 1.
        dtypes: Number formats that the backend computes in.
        device_type: Where the backend runs; None for anywhere.

    Raises:
        ValueError: Wrong shape, number format or device, a number that is not finite, or a conic that is not positive
            definite. The message names the first Gaussian at fault.

    >>> check_gaussians(torch.zeros(1, 2), torch.tensor([[1.0, 2.0, 1.0]]), torch.ones(1, 3), 4, 4)
    Traceback (most recent call last):
    ...
    ValueError: the conic of Gaussian 0, [1.0, 2.0, 1.0], is not positive definite: bound the standard deviations from
    below and their ratio from above
    """
    count = means.shape[0] if means.dim() else -1
    if means.shape != (count, 2) or conics.shape != (count, 3) or colors.dim() != 2 or colors.shape[0] != count:
        shapes = ", ".join(str(tuple(values.shape)) for values in (means, conics, colors))
        raise ValueError(f"means, conics and colors need the shapes (N, 2), (N, 3) and (N, C), not {shapes}")
    if colors.shape[1] == 0:
        raise ValueError("colors need at least one channel")
    if height < 1 or width < 1:
        raise ValueError(f"an image needs at least one row and one column, not {height} x {width}")
    for name, values in (("means", means), ("conics", conics), ("colors", colors)):
        if values.dtype not in dtypes or values.dtype != means.dtype:
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            raise ValueError(f"{name} are {values.dtype}: this rasterizer takes {wanted}, the same for all three")
        if values.device != means.device or values.device.type != (device_type or values.device.type):
            wanted = device_type or str(means.device)
            raise ValueError(f"{name} are on {values.device}, not on {wanted}: move them, or take the backend 'auto'")
        if not torch.isfinite(values).all():
            worst = int((~torch.isfinite(values)).any(dim=1).nonzero()[0, 0])
            raise ValueError(
                f"the {name} of Gaussian {worst}, {values[worst].tolist()}, are not finite:"
                " has the fit diverged? Lower the learning rate"
            )
    legal = (conics[:, 0] > 0) & (determinant(conics.detach()) > 0)
    if not legal.all():
        worst = int((~legal).nonzero()[0, 0])
        raise ValueError(
            f"the conic of Gaussian {worst}, {conics[worst].tolist()}, is not positive definite:"
            " bound the standard deviations from below and their ratio from above"
        )


def determinant(conics: Tensor) -> Tensor:
    """Determinants in float64, where products of float32 numbers are exact. (N, 3) -> (N,)."""
    q11, q12, q22 = conics.double().unbind(dim=1)
    return q11 * q22 - q12 * q12


def factor(conics: Tensor) -> Tensor:
    """Triangular factor l11, l21, l22 of each conic, float64, (N, 3) -> (N, 3).

    With it s = (u^2 + v^2) / 2, u = l11 dx + l21 dy, v = l22 dy: a sum of squares has no cancellation, which the
    quadratic form in float32 has for long thin Gaussians.

    >>> factor(torch.tensor([[4.0, 2.0, 5.0]])).tolist()
    [[2.0, 1.0, 2.0]]
    """
    l11 = conics[:, 0].double().sqrt()
    return torch.stack([l11, conics[:, 1].double() / l11, determinant(conics).sqrt() / l11], dim=1)


def half_extents(conics: Tensor) -> Tensor:
    """Half width and half height of the box around each ellipse s <= ln 255, pixels, float64, (N, 3) -> (N, 2)."""
    det = determinant(conics)
    return (2 * CUT * conics[:, [2, 0]].double() / det[:, None]).sqrt()
