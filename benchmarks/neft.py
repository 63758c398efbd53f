"""What a step of negative-feedback training costs: ratios to a clean step, CPU time, interleaved in one process.

    python benchmarks/neft.py [--rounds 5]

The network is the CIFAR ResNet-18 of injection.py at batch 64. OVF runs it four times forward and backward, which is
the method, so 4 is the least that it can cost. The callback's own hooks are driven in a bare training loop, so that the
Trainer's overhead, which is the same for all, does not hide the price.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace

import torch
from _measure import interleave, show
from injection import Classifier, cifar_resnet18

import lightning_cim as cim

VARIATION = cim.Gaussian.published("neft", sigma=0.1)
BATCH = 64


def step_of(callback: cim.VariationInjection | None) -> Callable[[], None]:
    """A function that trains one step, with a callback's hooks around it."""
    torch.manual_seed(0)
    module = Classifier(cifar_resnet18())
    batch = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    trainer = SimpleNamespace(
        global_rank=0,
        world_size=1,
        barebones=True,
        optimizers=[optimizer],
        precision_plugin=SimpleNamespace(forward_context=nullcontext),
    )
    if callback is not None:
        callback.attach(trainer, module)

    def run() -> None:
        if callback is not None:
            callback.on_train_batch_start(trainer, module, batch, 0)
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        if callback is not None:
            callback.on_after_backward(trainer, module)
            callback.on_before_optimizer_step(trainer, module, optimizer)
        optimizer.step()
        if callback is not None:
            callback.on_train_batch_end(trainer, module)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, 1 thread, batch {BATCH}, SGD with momentum, {rounds} rounds, seed 0")
    variants = {
        "clean step": step_of(None),
        "noisy step (VariationInjection)": step_of(cim.VariationInjection(VARIATION)),
        "temperature control (NeFT at beta 0)": step_of(cim.NegativeFeedback(VARIATION, mode="ovf", beta=0.0)),
        "IRS step": step_of(cim.NegativeFeedback(VARIATION, mode="irs", beta=0.01)),
        "OVF step": step_of(cim.NegativeFeedback(VARIATION, mode="ovf", beta=0.01)),
    }
    show("CIFAR ResNet-18 (11.2 M parameters)", interleave(variants, rounds), "clean step", {"OVF step": 4.3})


if __name__ == "__main__":
    main()
