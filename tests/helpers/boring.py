"""The tiny LightningModule that the contract is tested on, in both packages. Imports nothing of ``lightning_cim``."""

import importlib
import importlib.util
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

FLAVOURS = [name for name in ("lightning.pytorch", "pytorch_lightning") if importlib.util.find_spec(name.split(".")[0])]
STEPS = ("training_step", "validation_step", "test_step", "predict_step")
MAPPED = ("conv.weight", "linear.weight")
BATCHES, BATCH_SIZE = 4, 4


class Boring:
    """Convolution, batch norm, dropout and a linear layer; records what every step computed with.

    Dropout makes a callback that touches the global random state visible. With ``reseed`` the random state is set
    before each batch, because Lightning's checkpoints hold none and a resumed run could not be equal otherwise.
    """

    def __init__(self, lr=0.1, reseed=False):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.linear = nn.Linear(16, 3)
        self.lr, self.reseed = lr, reseed
        self.losses, self.seen, self.seen_in_test = [], [], []
        self.raise_in, self.error = None, None

    def forward(self, x):
        x = self.dropout(torch.relu(self.norm(self.conv(x))))
        return self.linear(x.flatten(1))

    def weights(self):
        """The mapped weights that the module would compute with now."""
        return {name: self._held(name).detach().clone() for name in MAPPED}

    def _held(self, name):
        path, _, attribute = name.rpartition(".")
        return getattr(self.get_submodule(path), attribute)

    def explode(self, place):
        if self.raise_in == place:
            self.raise_in = None
            raise self.error

    def on_train_batch_start(self, batch, batch_idx):
        if self.reseed:
            torch.manual_seed(self.trainer.global_step)

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def training_step(self, batch, batch_idx):
        self.seen.append(self.weights())
        loss = self.loss(batch)
        self.losses.append(loss.item())
        self.explode("training_step")
        return loss

    def backward(self, loss, *args, **kwargs):
        super().backward(loss, *args, **kwargs)
        self.explode("backward")

    def _evaluate(self, batch, stage):
        x, y = batch
        logits = self(x)
        self.log(f"{stage}/acc", (logits.argmax(1) == y).float().mean(), batch_size=len(y))
        self.log(f"{stage}/loss", nn.functional.cross_entropy(logits, y), batch_size=len(y))

    def validation_step(self, batch, batch_idx):
        self._evaluate(batch, "val")
        self.explode("validation_step")

    def test_step(self, batch, batch_idx):
        self.seen_in_test.append(self.weights())
        self._evaluate(batch, "test")

    def predict_step(self, batch, batch_idx):
        return self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=0.01)


@lru_cache
def variant(flavour, base=Boring):
    """A LightningModule class of the flavour from a plain mixin."""
    module = importlib.import_module(flavour).LightningModule
    # Pickles and deep copies look the class up by name, so it must not pretend to be in this file.
    return type(f"{base.__name__}_{flavour.replace('.', '_')}", (base, module), {"__doc__": base.__doc__})


def make(flavour, base=Boring, seed=0, **kwargs):
    """A module with the weights of a seed."""
    torch.manual_seed(seed)
    return variant(flavour, base)(**kwargs)


def data(batches=BATCHES, batch_size=BATCH_SIZE, seed=1, shuffle=False):
    """A loader over random images and labels, the same for equal arguments."""
    generator = torch.Generator().manual_seed(seed)
    size = batches * batch_size
    x = torch.randn(size, 1, 4, 4, generator=generator)
    y = torch.randint(0, 3, (size,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=shuffle)


class Resumable:
    """A loader that remembers its place, without which Lightning starts the epoch's data again after a resume."""

    def __init__(self, loader):
        self.batches, self.position = list(loader), 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for index in range(self.position, len(self)):
            self.position = (index + 1) % len(self)
            yield self.batches[index]

    def state_dict(self):
        return {"position": self.position}

    def load_state_dict(self, state):
        self.position = state["position"]


def make_trainer(flavour, *, callbacks=(), **kwargs):
    """A silent Trainer on one CPU."""
    settings = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "num_sanity_val_steps": 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "log_every_n_steps": 1,
    }
    return importlib.import_module(flavour).Trainer(callbacks=list(callbacks), **{**settings, **kwargs})


@dataclass
class Run:
    """A finished fit."""

    trainer: object
    model: object
    rng: torch.Tensor


def nothing(flavour):
    """An arrangement (keyword arguments of a Trainer) without any of our callbacks."""
    return {}


def fit(flavour, arrange=nothing, *, model=None, train=None, val=None, ckpt_path=None, extra=(), seed=0, **kwargs):
    """Fit a module (default: a fresh Boring) with an arrangement; ``extra`` callbacks come after the arrangement's."""
    model = make(flavour) if model is None else model
    arranged = {**arrange(flavour), **kwargs}
    arranged["callbacks"] = [*arranged.pop("callbacks", []), *extra]
    trainer = make_trainer(flavour, **arranged)
    torch.manual_seed(seed)
    trainer.fit(model, data() if train is None else train, data(2, seed=2) if val is None else val, ckpt_path=ckpt_path)
    return Run(trainer, model, torch.get_rng_state())


def checkpoint_of(trainer, weights_only=False):
    """The checkpoint that the Trainer would write now, as read back from a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "now.ckpt"
        trainer.save_checkpoint(path, weights_only=weights_only)
        return torch.load(path, weights_only=False)


def assert_equal(first, second, where="value"):
    """Nested containers are equal bit for bit, keys in the same order."""
    assert type(first) is type(second), f"{where}: {type(first)} and {type(second)}"
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second), f"{where}: differs by up to {(first - second).abs().max().item():.3g}"
    elif isinstance(first, dict):
        assert list(first) == list(second), f"{where}: keys {list(first)} and {list(second)}"
        for key in first:
            assert_equal(first[key], second[key], f"{where}[{key!r}]")
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second), f"{where}: {len(first)} and {len(second)} items"
        for index, (left, right) in enumerate(zip(first, second, strict=True)):
            assert_equal(left, right, f"{where}[{index}]")
    else:
        assert first == second, f"{where}: {first} and {second}"
