"""A small classifier and its data, with metrics that can be computed by hand."""

import lightning as L
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim

VARIATION = cim.Gaussian(0.3)


def dataset(size=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 4, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] > inputs[:, 1]).long())


def loader(batch_size=16, **options):
    return DataLoader(dataset(), batch_size=batch_size, **options)


class Classifier(L.LightningModule):
    """Two layers; logs ``test/acc`` and ``test/loss``, and the same for ``val``."""

    def __init__(self, lr: float = 0.1):
        super().__init__()
        torch.manual_seed(0)
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, inputs):
        return self.net(inputs)

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def shared(self, batch, name):
        logits = self(batch[0])
        self.log(f"{name}/acc", (logits.argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))
        self.log(f"{name}/loss", nn.functional.cross_entropy(logits, batch[1]), batch_size=len(batch[1]))

    def validation_step(self, batch, batch_idx):
        self.shared(batch, "val")

    def test_step(self, batch, batch_idx):
        self.shared(batch, "test")

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Data(L.LightningDataModule):
    """The classifier's data."""

    def __init__(self, batch_size: int = 16):
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self):
        return loader(self.batch_size)

    def val_dataloader(self):
        return loader(self.batch_size)

    def test_dataloader(self):
        return loader(self.batch_size)


def trainer(**options):
    """A silent Trainer on the CPU."""
    defaults = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
    }
    return L.Trainer(**{**defaults, **options})


@torch.no_grad()
def by_hand(model, chips, data=None):
    """Accuracy and loss over the whole data set on each chip, without Lightning."""
    inputs, labels = (data or dataset()).tensors
    accuracies, losses = [], []
    for chip in chips:
        with cim.on_chip(model, chip):
            logits = model(inputs)
        accuracies.append((logits.argmax(1) == labels).float().mean().item())
        losses.append(nn.functional.cross_entropy(logits, labels).item())
    return np.array(accuracies), np.array(losses)


def population(model, chips, variation=VARIATION, seed=0):
    drawn = cim.ChipPopulation(model, variation, seed)
    return [drawn[index] for index in range(chips)]
