"""What SWIM's sensitivity costs: ratios to one forward-backward pass over the same data, CPU time, interleaved.

python benchmarks/sensitivity.py [--rounds 7]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from _measure import interleave, show
from injection import Classifier, cifar_resnet18
from torch import Tensor

from lightning_cim.programming import sensitivity

BATCHES, BATCH_SIZE = 2, 32


def forward_backward(module: Classifier, batches: list[tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """A function that takes the gradients of every batch, in train mode."""

    def run() -> None:
        module.train()
        for index, batch in enumerate(batches):
            module.zero_grad()
            module.training_step(batch, index).backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = Classifier(cifar_resnet18())
    batches = [(torch.randn(BATCH_SIZE, 3, 32, 32), torch.randint(0, 10, (BATCH_SIZE,))) for _ in range(BATCHES)]
    print(f"torch {torch.__version__}, 1 thread, {BATCHES} batches of {BATCH_SIZE}, {rounds} rounds, seed 0")
    base = "forward and backward"
    variants: dict[str, Callable[[], object]] = {
        base: forward_backward(module, batches),
        "SWIM's sensitivity (recursion)": lambda: sensitivity(module, batches, "recursion"),
        "Gauss-Newton, 1 probe": lambda: sensitivity(module, batches, "gauss_newton", probes=1),
    }
    times = interleave(variants, rounds)
    show("CIFAR ResNet-18 (11.2 M parameters)", times, base, {"SWIM's sensitivity (recursion)": 2.5})


if __name__ == "__main__":
    main()
