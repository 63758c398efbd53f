"""Which torch functions run by a rule of their own while second derivatives are wanted, and with which arguments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_cim.programming.rules import PRODUCTS, Convolution, Linear, Product, Scaling, Share

Operation = Callable[..., Any]
"""Takes the function's arguments; returns NotImplemented where the function has to run as ever."""


def on_path(value: Any) -> bool:
    """Whether a value depends on a mapped weight."""
    return isinstance(value, Tensor) and value.requires_grad


def of_weights_only(tensor: Tensor) -> bool:
    """Whether a tensor is a weight, or computed from weights without meeting an activation."""
    seen, todo = set(), [tensor.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        if getattr(node, "_forward_cls", None) in PRODUCTS:
            return False
        seen.add(node)
        todo += [following for following, _ in node.next_functions]
    return True


def _convolution(dims: int, transposed: bool) -> Operation:
    def convolve(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        output_padding: Any = 0,
    ) -> Any:
        if not of_weights_only(weight):
            return NotImplemented
        dilated = _each(dilation, dims)
        if padding == "same":
            input, padding = _same(input, weight, dilated, dims)
        elif padding == "valid":
            padding = 0
        geometry = (_each(stride, dims), _each(padding, dims), dilated, transposed, _each(output_padding, dims), groups)
        if input.ndim == weight.ndim - 1:
            return Convolution.apply(input.unsqueeze(0), weight, bias, geometry).squeeze(0)
        return Convolution.apply(input, weight, bias, geometry)

    def convolve_transposed(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Any:
        return convolve(input, weight, bias, stride, padding, dilation, groups, output_padding)

    return convolve_transposed if transposed else convolve


def _each(value: Any, dims: int) -> list[int]:
    values = [value] if isinstance(value, int) else [int(item) for item in value]
    return values * dims if len(values) == 1 else values


def _same(input: Tensor, weight: Tensor, dilation: list[int], dims: int) -> tuple[Tensor, list[int]]:
    """Padding for ``padding="same"``; where the two sides differ, the input is padded on the far side first."""
    totals = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in totals):
        input = F.pad(input, [side for total in reversed(totals) for side in (0, total % 2)])
    return input, [total // 2 for total in totals]


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if weight.ndim != 2 or not of_weights_only(weight):
        return NotImplemented
    return Linear.apply(input, weight, bias)


def _product(multiply: Callable[[Tensor, Tensor], Tensor]) -> Operation:
    def product(left: Any, right: Any) -> Any:
        both = on_path(left) and on_path(right)
        if not isinstance(left, Tensor) or not isinstance(right, Tensor):
            return NotImplemented
        if both and not (of_weights_only(left) or of_weights_only(right)):
            return NotImplemented
        return Product.apply(left, right, multiply)

    return product


def _einsum(equation: Any, *operands: Any) -> Any:
    if not isinstance(equation, str) or len(operands) != 2:
        return NotImplemented
    return _product(lambda left, right: torch.einsum(equation, left, right))(*operands)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None or running_var is None or on_path(weight) or on_path(bias):
        return NotImplemented
    factor = torch.rsqrt(running_var + eps) * (1 if weight is None else weight)
    factor = factor.view(-1, *[1] * (input.ndim - 2))

    def normalise(x: Tensor) -> Tensor:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)

    return Scaling.apply(input, factor, normalise, False)


def _multiplied(function: Callable[..., Tensor], inplace: bool = False) -> Operation:
    def multiply(input: Any, other: Any) -> Any:
        if not on_path(input) and not inplace:
            input, other = other, input
        if not on_path(input) or on_path(other) or not isinstance(other, (Tensor, int, float)):
            return NotImplemented
        return Scaling.apply(input, other, lambda x: function(x, other), inplace)

    return multiply


def _divided(function: Callable[..., Tensor], inplace: bool = False) -> Operation:
    def divide(input: Any, other: Any) -> Any:
        if not on_path(input) or on_path(other) or not isinstance(other, (Tensor, int, float)):
            return NotImplemented
        return Scaling.apply(input, 1 / other, lambda x: function(x, other), inplace)

    return divide


def _scaled(value: Any, factor: float) -> Any:
    return Scaling.apply(value, factor, lambda x: x * factor, False) if on_path(value) else value * factor


def _negative(input: Tensor) -> Any:
    return _scaled(input, -1.0)


def _added(function: Callable[..., Tensor], sign: float = 1.0) -> Operation:
    """Add ``sign * alpha * other``; the function is that which adds, perhaps in place."""

    def add(input: Any, other: Any, *, alpha: float = 1.0) -> Any:
        factor = sign * alpha
        return function(input, other if factor == 1.0 else _scaled(other, factor))

    return add


def _subtracted_from(input: Tensor, other: Any, *, alpha: float = 1.0) -> Any:
    return _scaled(input, -alpha) + other


def _mean(input: Tensor, *args: Any, **kwargs: Any) -> Any:
    mean = torch.mean(input, *args, **kwargs)
    return Share.apply(mean, mean.numel() / input.numel())


def _pooling(dims: int) -> Operation:
    if dims == 1:
        return _as_rows(_pooling(2))
    average: Callable[..., Tensor] = F.avg_pool3d if dims == 3 else F.avg_pool2d

    def pool(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Any:
        geometry = [_each(kernel_size, dims), _each(stride or kernel_size, dims), _each(padding, dims)]
        ones = torch.ones(1, *input.shape[-dims:], dtype=input.dtype, device=input.device)
        sums = average(ones, *geometry, ceil_mode, divisor_override=1)
        share = average(ones, *geometry, ceil_mode, count_include_pad, divisor_override) / sums
        return Share.apply(average(input, *geometry, ceil_mode, count_include_pad, divisor_override), share)

    return pool


def _as_rows(pool: Operation) -> Operation:
    """Pooling of sequences as pooling of images of one row; the one for sequences cannot sum, and returns a view."""

    def pool_sequences(input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, *further: Any) -> Any:
        size, step, pad = (_each(value, 1)[0] for value in (kernel_size, stride or kernel_size, padding))
        return pool(input.unsqueeze(-2), (1, size), (1, step), (0, pad), *further).squeeze(-2)

    return pool_sequences


def _adaptive_pooling(dims: int) -> Operation:
    average: Callable[..., Tensor] = F.adaptive_avg_pool3d if dims == 3 else F.adaptive_avg_pool2d

    def pool(input: Tensor, output_size: Any) -> Any:
        sizes = [output_size] * dims if output_size is None or isinstance(output_size, int) else list(output_size)
        share = torch.ones((), dtype=input.dtype, device=input.device)
        for length, size in zip(input.shape[-dims:], sizes, strict=True):
            windows = _adaptive_windows(length, length if size is None else size)
            share = share.unsqueeze(-1) / torch.tensor(windows, dtype=input.dtype, device=input.device)
        return Share.apply(average(input, output_size), share)

    def pool_sequences(input: Tensor, output_size: Any) -> Any:
        return images(input.unsqueeze(-2), (1, *_each(output_size, 1))).squeeze(-2)

    if dims == 1:
        images = _adaptive_pooling(2)
        return pool_sequences
    return pool


def _adaptive_windows(length: int, size: int) -> list[int]:
    return [math.ceil((i + 1) * length / size) - i * length // size for i in range(size)]


def _leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    factor = torch.where(input.detach() > 0, 1.0, negative_slope)
    return Scaling.apply(input, factor, lambda x: F.leaky_relu(x, negative_slope, inplace), inplace)


def _prelu(input: Tensor, weight: Tensor) -> Any:
    if on_path(weight):
        return NotImplemented
    slopes = weight if weight.numel() == 1 else weight.view(-1, *[1] * (input.ndim - 2))
    return Scaling.apply(input, torch.where(input.detach() > 0, 1.0, slopes), lambda x: torch.prelu(x, weight), False)


def _pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    if mode != "circular":  # which copies in place, on a graph that hides what it copies
        return NotImplemented
    for index in range(len(pad) // 2):
        length = input.shape[-1 - index]
        around = torch.arange(-pad[2 * index], length + pad[2 * index + 1], device=input.device) % length
        input = input.index_select(-1 - index, around)
    return input


def _operations() -> dict[Callable[..., Any], Operation]:
    table: dict[Any, Operation] = {
        F.linear: _linear,
        torch.einsum: _einsum,
        F.batch_norm: _batch_norm,
        F.leaky_relu: _leaky_relu,
        torch.prelu: _prelu,
        F.pad: _pad,
        torch.rsub: _subtracted_from,
        Tensor.__rsub__: _subtracted_from,
        torch.avg_pool1d: _pooling(1),
        F.avg_pool2d: _pooling(2),
        F.avg_pool3d: _pooling(3),
        torch.adaptive_avg_pool1d: _adaptive_pooling(1),
        F.adaptive_avg_pool2d: _adaptive_pooling(2),
        F.adaptive_avg_pool3d: _adaptive_pooling(3),
        torch.mean: _mean,
        Tensor.mean: _mean,
    }
    for dims in (1, 2, 3):
        table[getattr(torch, f"conv{dims}d")] = _convolution(dims, transposed=False)
        table[getattr(torch, f"conv_transpose{dims}d")] = _convolution(dims, transposed=True)
    table |= {function: _product(torch.matmul) for function in (torch.matmul, Tensor.matmul, Tensor.__matmul__)}
    table |= {function: _product(torch.matmul) for function in (torch.mm, Tensor.mm, torch.bmm, Tensor.bmm)}
    table |= {function: _negative for function in (torch.neg, Tensor.neg, torch.negative, Tensor.negative)}
    for name in ("mul", "multiply"):
        table |= {getattr(space, name): _multiplied(torch.mul) for space in (torch, Tensor)}
        table[getattr(Tensor, f"{name}_")] = _multiplied(Tensor.mul_, inplace=True)
    for name in ("div", "divide", "true_divide"):
        table |= {getattr(space, name): _divided(torch.div) for space in (torch, Tensor)}
        table[getattr(Tensor, f"{name}_")] = _divided(Tensor.div_, inplace=True)
    for name in ("sub", "subtract"):
        table |= {getattr(space, name): _added(torch.add, -1.0) for space in (torch, Tensor)}
        table[getattr(Tensor, f"{name}_")] = _added(Tensor.add_, -1.0)
    table |= {function: _added(torch.add) for function in (torch.add, Tensor.add)}
    table[Tensor.add_] = _added(Tensor.add_)
    return table


OPERATIONS = _operations()
"""By torch function: what runs in its place on tensors that depend on mapped weights."""
