"""What the tests of TRICE's search share: settings, a tiny network, and a probe of all three sets."""

import importlib

import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.callbacks.weight_sets import tensors_of

SIGMA = cim.Gaussian(sigma=0.1)
SETTINGS = {"chips": 3, "monitor": "val/acc"}


class Tiny:
    """Two linear layers without batch norm or dropout."""

    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, x):
        return self.net(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def tiny_net():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def probe_class(flavour):
    class Probe(importlib.import_module(flavour).Callback):
        """Copies all three sets after each epoch's batches, and again after the selection."""

        def __init__(self, search):
            self.search, self.trained, self.selected = search, [], []

        def look(self, pl_module):
            sets = {"mid": pl_module, **{name: twin.module for name, twin in self.search._twins.items()}}
            return {name: {key: t.clone() for key, t in tensors_of(module).items()} for name, module in sets.items()}

        def on_validation_start(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.trained.append(self.look(pl_module))

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.selected.append(self.look(pl_module))

    return Probe
