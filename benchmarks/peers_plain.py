"""The contestant without a toolkit: what a user of PyTorch writes. Marked lines are added to their script."""

from __future__ import annotations

import copy

import torch
from peers_tasks import SIGMA, Batch, Chips, Step, accuracy, sgd
from torch import nn


def train(network: nn.Module, batch: Batch) -> Step:
    """Add noise to the weights before the forward pass, put the weights back after the backward pass."""
    inputs, labels = batch
    optimizer = sgd(network)
    # >>> train
    weights = [layer.weight for layer in network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    # <<<

    def run() -> None:
        # >>> train
        clean = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight in weights:
                weight.add_(SIGMA * weight.abs().max() * torch.randn_like(weight))
        # <<<
        loss = nn.functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        # >>> train
        with torch.no_grad():
            for weight, value in zip(weights, clean, strict=True):
                weight.copy_(value)
        # <<<
        optimizer.step()

    return Step(run, network)


def evaluate(network: nn.Module, batches: list[Batch]) -> Chips:
    """Deep copy, add noise, run."""

    def run(chips: int) -> list[float]:
        # >>> evaluate
        accuracies = []
        for _ in range(chips):
            noisy = copy.deepcopy(network)
            with torch.no_grad():
                for layer in noisy.modules():
                    if isinstance(layer, (nn.Conv2d, nn.Linear)):
                        layer.weight.add_(SIGMA * layer.weight.abs().max() * torch.randn_like(layer.weight))
            accuracies.append(accuracy(noisy, batches))
        # <<<
        return accuracies

    return Chips(run, network.eval())
