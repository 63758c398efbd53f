"""The tasks of the peers benchmark, the same for all: networks, data, the clean step, the clean forward."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recipes.image_classification.models import build_network

SIGMA = 0.1
"""Std of the additive Gaussian of every mapped weight, over the max|W| of its tensor."""
BATCH = 64

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Step:
    """A training step, and the network that it trains, as the contestant made it."""

    run: Callable[[], None]
    network: nn.Module


@dataclass(frozen=True)
class Chips:
    """A Monte-Carlo evaluation: the accuracy on each of so many chips, and the network it deviates."""

    run: Callable[[int], list[float]]
    network: nn.Module


def mlp() -> nn.Module:
    """784-256-128-10; the same weights at every call."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def resnet18(width: int) -> nn.Module:
    """The CIFAR ResNet-18 with 16 or 64 channels in its first stage; the same weights at every call."""
    torch.manual_seed(0)
    return build_network("resnet18", classes=10, width=width / 64)


def batch_of(*shape: int) -> Batch:
    """Inputs and labels, the same at every call."""
    torch.manual_seed(1)
    return torch.randn(BATCH, *shape), torch.randint(0, 10, (BATCH,))


def sgd(network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every contestant that lets the user choose."""
    return torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)


def plain_step(network: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer | None = None) -> Step:
    """The step of a network that is clean, or whose layers are noisy by themselves."""
    inputs, labels = batch
    optimizer = optimizer or sgd(network)

    def run() -> None:
        loss = nn.functional.cross_entropy(network(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return Step(run, network)


@torch.no_grad()
def accuracy(network: nn.Module, batches: list[Batch]) -> float:
    """Share of right answers: the evaluation that a user has already."""
    hits = sum(int((network(inputs).argmax(1) == labels).sum()) for inputs, labels in batches)
    return hits / sum(len(labels) for _, labels in batches)
