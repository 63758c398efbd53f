"""Worst-case search by a Lagrangian, after Carlini and Wagner's attack on inputs (arXiv 1608.04644)."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from lightning_cim.evaluation.attack import Attack, Deviations

Distance = Literal["max", "l2", "linf"]
DISTANCES: tuple[Distance, ...] = ("max", "l2", "linf")
TOLERANCE = 1e-5


def lagrange_search(attack: Attack, steps: int, rounds: int, distance: Distance, lr: float) -> None:
    """Minimise D(dW) + c * sum of margins by Adam, and search the c at which D meets the bound.

    c starts where a small step along the gradient's sign pays for its own distance, is multiplied (or divided) by 10
    until D crosses the bound, and is then bisected on a logarithmic scale. Each round goes on from the deviations of
    the one before, clipped to the bound, and ends with a score of the clipped deviations. Costs at most
    ``rounds * (steps forward-backward passes + 1 forward pass)`` and one forward-backward pass for the first c; ends
    early when D is within 1e-5 of the bound. As in the reference code (github.com/MariusAnje/CIM_CW) Adam steps once
    a batch.

    Args:
        attack: The network and the data; its history and best chip are filled.
        steps: Passes over the data for each c.
        rounds: Values of c.
        distance: D, in units of max|W| over all mapped weights: ``"max"``: max|dW|; ``"l2"``: root mean square;
            ``"linf"``: the mean excess of |dW| over the bound (Carlini and Wagner's own form), with max|dW| held
            against the bound.
        lr: Adam's learning rate, in units of the bound.
    """
    deviations = attack.nothing()
    tally, gradients = attack.gradient(deviations)
    attack.note(deviations, tally)
    slope = sum(float(gradient.abs().sum()) for gradient in gradients.values())
    if slope == 0.0:
        return
    c, low, high = attack.batch_count / slope, 0.0, math.inf
    for _ in range(rounds):
        _minimise(attack, deviations, c, steps, distance, lr * attack.bound)
        size = _size(deviations, "l2" if distance == "l2" else "max")
        deviations = attack.clipped(deviations)
        attack.note(deviations, attack.score(deviations), c, float(size))
        if abs(float(size) - attack.bound) < TOLERANCE:
            return
        low, high = (low, c) if size >= attack.bound else (c, high)
        c = low * 10 if math.isinf(high) else high / 10 if low == 0.0 else math.sqrt(low * high)


def _minimise(attack: Attack, deviations: Deviations, c: float, steps: int, distance: Distance, lr: float) -> None:
    """Adam on D + c * objective; changes the deviations in place."""
    optimizer = torch.optim.Adam(deviations.values(), lr=lr)

    def step(gradients: Deviations) -> None:
        pull = _pull(deviations, distance, attack.bound)
        for name, value in deviations.items():
            # A weight without a device, or one that no gradient reaches, is zero and has no pull either.
            value.grad = pull[name] + c * gradients[name] if name in gradients else pull[name]
        optimizer.step()

    for _ in range(steps):
        attack.each_gradient(deviations, step)
    for value in deviations.values():
        value.grad = None


def _pull(deviations: Deviations, distance: Distance, bound: float) -> Deviations:
    """The gradient of D; 0 where there is no deviation yet."""
    with torch.enable_grad():
        leaves = {name: value.detach().requires_grad_() for name, value in deviations.items()}
        size = _size(leaves, distance, bound)
        found = torch.autograd.grad(size, list(leaves.values()))
    return dict(zip(leaves, found, strict=True))


def _size(deviations: Deviations, distance: Distance, bound: float = 0.0) -> Tensor:
    values = list(deviations.values())
    if distance == "max":
        return torch.stack([value.abs().max() for value in values if value.numel()]).max()
    count = sum(value.numel() for value in values)
    if distance == "l2":
        tiny = torch.finfo(torch.float32).tiny  # the root has no slope at 0
        return torch.stack([value.square().sum() for value in values]).sum().div(count).add(tiny).sqrt()
    return torch.stack([(value.abs() - bound).clamp(min=0).sum() for value in values]).sum() / count
