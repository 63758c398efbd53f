"""What noise a contestant really computes with, read from outside: impulses through its layers while it runs.

A toolkit that injects nothing would be fast. The weight that a layer computes with is its answer to one-hot inputs less
its answer to zeros, whatever the layer is made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TAPS = 256
"""Most inputs of a layer that are probed."""


@dataclass(frozen=True)
class Noise:
    """The errors of the weights that a contestant computed with.

    Attributes:
        std: Over all mapped weights, of the error over the max|W| of its tensor, pooled over the draws.
        draws: How many different draws each layer saw.
        count: Errors in each draw.
    """

    std: float
    draws: int
    count: int


def observe(network: nn.Module, clean: nn.Module, run: Callable[[], object]) -> Noise:
    """Run a contestant with a probe on each of its noisy layers.

    Args:
        network: The contestant's network, or the original that it copies at each chip.
        clean: The same network as PyTorch built it; tells names, shapes and weights of the noisy layers.
        run: Runs the contestant for some steps or chips.

    Raises:
        ValueError: If the contestant's network has no layer of that name, a layer never ran, or the layers saw
            different numbers of draws.
    """
    layers = dict(network.named_modules())
    errors: dict[str, list[Tensor]] = {}
    handles = []
    for name, layer in clean.named_modules():
        if not isinstance(layer, (nn.Conv2d, nn.Linear)):
            continue
        if name not in layers:
            raise ValueError(f"no layer {name!r} to probe in {type(network).__name__}; it has {', '.join(layers)}")
        errors[name] = []
        handles.append(layers[name].register_forward_hook(_probe(layer, errors[name])))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    silent = [name for name, seen in errors.items() if not seen]
    if silent:
        raise ValueError(f"the layers {', '.join(silent)} never ran in {type(network).__name__}")
    draws = {name: _distinct(seen) for name, seen in errors.items()}
    if len(counts := set(map(len, draws.values()))) > 1:
        raise ValueError(f"layers of {type(network).__name__} saw between {min(counts)} and {max(counts)} draws")
    every = torch.cat([draw.flatten() for seen in draws.values() for draw in seen] or [torch.zeros(1)])
    count = sum(seen[0].numel() for seen in errors.values())
    return Noise(every.double().square().mean().sqrt().item(), counts.pop(), count)


def check(noise: Noise, sigma: float, draws: int, who: str) -> None:
    """Refuse a contestant that does not do what it is timed for.

    Args:
        noise: What was observed.
        sigma: The std that was asked for, over max|W|.
        draws: How many there should be: one a training step, or one a chip whatever the number of batches.
        who: The contestant and its task, for the message.

    Raises:
        ValueError: If the std is not sigma within five standard errors and half a percent, or the draws are
            not so many.
    """
    slack = sigma * (5 / math.sqrt(2 * noise.count * max(1, noise.draws)) + 0.005)
    if abs(noise.std - sigma) > slack:
        raise ValueError(f"{who}: noise of std {noise.std:.4f} max|W|, not {sigma} within {slack:.4f}; not comparable")
    if noise.draws != draws:
        raise ValueError(f"{who}: {noise.draws} different draws of the noise, not {draws}; not comparable")


def impulses(layer: nn.Conv2d | nn.Linear) -> tuple[Tensor, Callable[[Tensor], Tensor], Tensor]:
    """One-hot inputs for a layer, how to read its answer, and the weights that a clean layer answers.

    The taps are spread evenly over the layer's inputs, the same at each call.

    Returns:
        Inputs (T, ...), a function from the layer's answer to (T, outputs), and weights (T, outputs).

    Raises:
        TypeError: A convolution with groups, dilation or padding by name.

    Example:
        >>> layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
        >>> inputs, read, weights = impulses(layer)
        >>> torch.equal(read(layer(inputs)), weights), tuple(weights.shape)
        (True, (18, 3))
    """
    if isinstance(layer, nn.Linear):
        taps = _spread(layer.in_features)
        return torch.eye(layer.in_features)[taps], lambda out: out, layer.weight.detach().T[taps].clone()
    padding = layer.padding
    if layer.groups != 1 or layer.dilation != (1, 1) or isinstance(padding, str):
        raise TypeError(f"cannot probe {layer}")
    # The first output whose window lies inside the input, padding excluded, and where that window begins.
    outputs = [-(-pad // step) for step, pad in zip(layer.stride, padding, strict=True)]
    top, left = (place * step - pad for place, step, pad in zip(outputs, layer.stride, padding, strict=True))
    rows, columns = layer.kernel_size
    taps = _spread(layer.in_channels * rows * columns)
    inputs = torch.zeros(len(taps), layer.in_channels, top + rows, left + columns)
    channel, row, column = taps // (rows * columns), taps // columns % rows, taps % columns
    inputs[torch.arange(len(taps)), channel, top + row, left + column] = 1
    weights = layer.weight.detach().permute(1, 2, 3, 0).reshape(-1, layer.out_channels)[taps].clone()
    return inputs, lambda out: out[:, :, outputs[0], outputs[1]], weights


def _spread(count: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, TAPS)).long()


def _probe(
    clean: nn.Conv2d | nn.Linear, errors: list[Tensor]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    inputs, read, weights = impulses(clean)
    with torch.no_grad():
        scale = clean.weight.abs().max()

    def hook(layer: nn.Module, received: tuple[Tensor, ...], _: Tensor) -> None:
        state = torch.get_rng_state()
        with torch.no_grad():
            answer, offset = read(layer.forward(inputs)), read(layer.forward(torch.zeros_like(inputs)))
            errors.append(((answer - offset - weights) / scale).float().clone())
            layer.forward(*received)  # compiled layers remember the shape of their last input
        torch.set_rng_state(state)

    return hook


def _distinct(draws: list[Tensor]) -> list[Tensor]:
    """The draws that are neither zero nor equal to one before."""
    found: list[Tensor] = []
    for draw in draws:
        if not any(torch.allclose(draw, other, atol=1e-4) for other in [torch.zeros_like(draw), *found]):
            found.append(draw)
    return found
