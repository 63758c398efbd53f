"""How a second derivative h passes each operation backwards: h_x = (J * J)^T h, the Jacobian J squared elementwise.

Where J holds only zeros and ones (ReLU, max-pooling, reshaping, adding branches), that is the ordinary backward pass.
Every other operation that has a rule runs as a function of its own here, whose forward is the ordinary one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional as F

Geometry = tuple[list[int], list[int], list[int], bool, list[int], int]


class Convolution(Function):
    """h_x is the convolution's backward with squared weights, h_W that with squared inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry) -> Tensor:
        """Convolve; ``geometry`` is stride, padding, dilation, transposed, output padding, groups."""
        ctx.save_for_backward(x, weight)
        ctx.bias_shape = None if bias is None else list(bias.shape)
        ctx.geometry = geometry
        return torch.convolution(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """Convolve the second derivatives back."""
        x, weight = (_square(saved) for saved in ctx.saved_tensors)
        wanted = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.convolution_backward(h.to(x.dtype), x, weight, ctx.bias_shape, *ctx.geometry, wanted)
        return (*found, None)


class Linear(Function):
    """h_x = h W^2, h_W = h^T x^2."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply."""
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the second derivatives back."""
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        h = h.to(torch.promote_types(h.dtype, torch.float32))
        rows = h.reshape(-1, weight.shape[0])
        return (
            h @ _square(weight) if needs_x else None,
            rows.T @ _square(x).reshape(-1, weight.shape[1]) if needs_weight else None,
            rows.sum(0) if needs_bias else None,
        )


class Product(Function):
    """An operation that is linear in each of two tensors: its own backward, each with the other one squared."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, right: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Multiply, for example ``torch.matmul``."""
        ctx.save_for_backward(left, right)
        ctx.multiply = multiply
        return multiply(left, right)

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the second derivatives back."""
        needed = ctx.needs_input_grad[:2]
        squares = [_square(saved).requires_grad_(need) for saved, need in zip(ctx.saved_tensors, needed, strict=True)]
        # The recursion, in whose block this runs, must not replace the multiplication again.
        with torch.enable_grad(), torch._C.DisableTorchFunction():
            product = ctx.multiply(*squares)
        wanted = [square for square in squares if square.requires_grad]
        found = iter(torch.autograd.grad(product, wanted, h.to(product.dtype)))
        return (*(next(found) if need else None for need in needed), None)


class Scaling(Function):
    """An elementwise product with constants: h_x = factor^2 h."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factor: Tensor | float, scale: Callable[[Tensor], Tensor], inplace: bool
    ) -> Tensor:
        """Apply ``scale``, which multiplies ``x`` with ``factor`` (and may add constants)."""
        ctx.shape = x.shape
        ctx.number = None if isinstance(factor, Tensor) else float(factor)
        ctx.save_for_backward(*([factor] if isinstance(factor, Tensor) else []))
        y = scale(x)
        if inplace:
            ctx.mark_dirty(x)
            return x
        return y

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the second derivatives."""
        factor = ctx.saved_tensors[0] if ctx.number is None else ctx.number
        return (h * factor**2).sum_to_size(ctx.shape), None, None, None


class Share(Function):
    """Behind an average, whose Jacobian has in the row of output o only zeros and one value ``share``[o]: share * h."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, share: Tensor | float) -> Tensor:
        """Nothing: the average is ``y``, and its ordinary backward pass gives the other factor of the square."""
        ctx.share = share
        ctx.mark_dirty(y)
        return y

    @staticmethod
    def backward(ctx: Any, h: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the second derivatives once."""
        return h * ctx.share, None


PRODUCTS = (Convolution, Linear, Product)
"""Where weights meet activations."""

FUNCTIONS = (*PRODUCTS, Scaling, Share)
"""All operations that pass second derivatives backwards by a rule of this module."""


def _square(tensor: Tensor) -> Tensor:
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32)).square()
