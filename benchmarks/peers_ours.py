"""lightning_cim as a contestant. Marked lines are what a user adds to a script that has a Trainer already."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightning as L
from peers_tasks import SIGMA, Batch, Chips, Step, sgd
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lightning_cim as cim

PCM = "pcm-nandakumar2019"


class Classifier(L.LightningModule):
    """The user's module: cross-entropy in training, accuracy in tests."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss."""
        inputs, labels = batch
        return nn.functional.cross_entropy(self.network(inputs), labels)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the accuracy."""
        inputs, labels = batch
        self.log("acc", (self.network(inputs).argmax(1) == labels).float().mean())


def train(network: nn.Module, batch: Batch) -> Step:
    """A training step under a Gaussian."""
    # >>> train
    import lightning_cim as cim

    callbacks = [cim.VariationInjection(cim.Gaussian(SIGMA))]  # of the Trainer
    # <<<
    return step_of(network, batch, callbacks)


def train_pcm(network: nn.Module, batch: Batch) -> Step:
    """A training step under measured phase-change memory."""
    return step_of(network, batch, [cim.VariationInjection(cim.Measured.preset(PCM))])


def step_of(network: nn.Module, batch: Batch, callbacks: list[cim.VariationInjection]) -> Step:
    """The callbacks' own hooks in a bare loop: the Trainer's overhead would only hide their price."""
    module = Classifier(network)
    optimizer = sgd(module)
    trainer = SimpleNamespace(global_rank=0, barebones=True)
    for callback in callbacks:
        callback.attach(trainer, module)

    def run() -> None:
        for callback in callbacks:
            callback.on_train_batch_start(trainer, module, batch, 0)
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        for callback in callbacks:
            callback.on_after_backward(trainer, module)
        optimizer.step()
        for callback in callbacks:
            callback.on_train_batch_end(trainer, module)

    return Step(run, network)


def evaluate(network: nn.Module, batches: list[Batch]) -> Chips:
    """``evaluate_chips``; its Trainer's overhead is included."""
    module = Classifier(network)
    loader: DataLoader[Batch] = DataLoader(batches, batch_size=None)  # type: ignore[arg-type]
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    quiet: dict[str, Any] = {"progress": False, "k": 50}

    def run(chips: int) -> list[float]:
        # >>> evaluate
        import lightning_cim as cim

        result = cim.evaluate_chips(trainer, module, loader, variation=cim.Gaussian(SIGMA), chips=chips, **quiet)
        # <<<
        return [float(value) for value in result.of("acc")]

    return Chips(run, network)
