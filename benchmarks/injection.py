"""What a noisy training step costs: ratios to a clean step, CPU time, interleaved in one process.

    python benchmarks/injection.py [--rounds 7]

The callback's own hooks are driven in a bare training loop, so that the Trainer's overhead, which is the same for both,
does not hide the price.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import SimpleNamespace

import lightning as L
import torch
from _measure import interleave, show
from torch import Tensor, nn
from torchvision.models import resnet18

import lightning_cim as cim


class Classifier(L.LightningModule):
    """Cross-entropy on a network, as a user would write it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The loss."""
        inputs, labels = batch
        return nn.functional.cross_entropy(self.net(inputs), labels)


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
    )


def cifar_resnet18() -> nn.Module:
    net = resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    net.maxpool = nn.Identity()
    return net


def trainer_of(
    net: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, **injection: int
) -> Callable[[], None]:
    """A function that trains ``steps`` steps of batch 64; with ``injection``, under variation."""
    torch.manual_seed(0)
    module = Classifier(net())
    batch = torch.randn(64, *shape), torch.randint(0, 10, (64,))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    callback = cim.VariationInjection(cim.Gaussian(sigma=0.1), **injection) if injection else None
    trainer = SimpleNamespace(global_rank=0, barebones=True)
    if callback is not None:
        callback.attach(trainer, module)

    def run() -> None:
        for index in range(steps):
            if callback is not None:
                callback.on_train_batch_start(trainer, module, batch, index)
            loss = module.training_step(batch, index)
            optimizer.zero_grad()
            loss.backward()
            if callback is not None:
                callback.on_after_backward(trainer, module)
            optimizer.step()
            if callback is not None:
                callback.on_train_batch_end(trainer, module)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, batch 64, SGD with momentum, {rounds} rounds, seed 0")
    for title, net, shape, steps, bar in (
        ("MLP 784-256-128-10, 100 steps a round", mlp, (784,), 100, 1.9),
        ("CIFAR ResNet-18 (11.2 M parameters), 1 step a round", cifar_resnet18, (3, 32, 32), 1, 1.05),
    ):
        variants = {
            "clean step": trainer_of(net, shape, steps),
            "noisy step, fresh chip": trainer_of(net, shape, steps, seed=0),
            "noisy step, chip redrawn every 10 batches": trainer_of(net, shape, steps, redraw_every_n_steps=10),
        }
        show(title, interleave(variants, rounds), "clean step", {"noisy step, fresh chip": bar})


if __name__ == "__main__":
    main()
