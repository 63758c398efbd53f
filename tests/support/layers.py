"""Layers of every kind, each the first layer of a tiny classifier."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.parameter import is_lazy
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim

CLASSES, SIZE, BATCH = 3, 8, 4


@dataclass(frozen=True)
class Kind:
    """A row of the matrix.

    Attributes:
        name: As the page shows it.
        build: Makes the layer.
        shape: Of one input.
        outputs: Numbers that the layer gives for one input.
        mapped: The layer's parameters that should deviate; empty: it stays digital.
        mapping: Which one maps them; default: the default.
        tokens: Whether inputs are integers.
    """

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    outputs: int
    mapped: tuple[str, ...] = ("weight",)
    mapping: cim.Mapping = field(default_factory=cim.Mapping)
    tokens: bool = False

    def data(self):
        """Two batches."""
        generator = torch.Generator().manual_seed(1)
        if self.tokens:
            x = torch.randint(0, 6, (SIZE, *self.shape), generator=generator)
        else:
            x = torch.randn(SIZE, *self.shape, generator=generator)
        return DataLoader(TensorDataset(x, torch.arange(SIZE) % CLASSES), batch_size=BATCH)

    def names(self):
        """Parameter names in the classifier."""
        return [f"layer.{name}" for name in self.mapped]


class First(nn.Module):
    """Takes the first of a layer's outputs, as callers of recurrent layers and attention do."""

    def __init__(self, layer, copies=1):
        super().__init__()
        self.inner, self.copies = layer, copies

    def forward(self, x):
        return self.inner(*[x] * self.copies)[0]


class Cells(nn.Module):
    """A recurrent cell, unrolled by hand."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(8, 4)

    def forward(self, x):
        state = torch.zeros(len(x), 4, dtype=x.dtype)
        for step in x.unbind(1):
            state = self.cell(step, state)
        return state


class Pair(nn.Module):
    """Two inputs of a bilinear layer."""

    def __init__(self):
        super().__init__()
        self.both = nn.Bilinear(4, 4, 4)

    def forward(self, x):
        return self.both(x[:, :4].contiguous(), x[:, 4:].contiguous())


class Tied(nn.Module):
    """Two layers that hold one weight."""

    def __init__(self):
        super().__init__()
        self.there, self.back = nn.Linear(8, 8), nn.Linear(8, 8)
        self.back.weight = self.there.weight

    def forward(self, x):
        return self.back(torch.relu(self.there(x)))


class Custom(nn.Module):
    """A layer of the user's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 8) / 3)

    def forward(self, x):
        return F.linear(x, self.weight)


class Scaled(nn.Linear):
    """A subclass of a layer with a forward of its own."""

    def forward(self, x):
        return super().forward(x) * 0.5


def _normed(layer):
    return nn.utils.parametrizations.weight_norm(layer)


SEQUENCE = ("inner.weight_ih_l0", "inner.weight_hh_l0")
KINDS = [
    Kind("Linear", lambda: nn.Linear(8, 4), (8,), 4),
    Kind("Conv1d", lambda: nn.Conv1d(4, 4, 3), (4, 6), 16),
    Kind("Conv2d", lambda: nn.Conv2d(4, 4, 3), (4, 4, 4), 16),
    Kind("Conv3d", lambda: nn.Conv3d(4, 4, 2), (4, 3, 3, 3), 32),
    Kind("Conv2d, grouped", lambda: nn.Conv2d(4, 4, 3, groups=2), (4, 4, 4), 16),
    Kind("Conv2d, depthwise", lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 4, 4), 16),
    Kind("ConvTranspose2d", lambda: nn.ConvTranspose2d(4, 4, 2, stride=2), (4, 2, 2), 64),
    Kind("Bilinear", Pair, (8,), 4, ("both.weight",)),
    Kind("LSTM", lambda: First(nn.LSTM(8, 4, batch_first=True)), (5, 8), 20, SEQUENCE),
    Kind("GRU", lambda: First(nn.GRU(8, 4, batch_first=True)), (5, 8), 20, SEQUENCE),
    Kind("GRUCell", Cells, (5, 8), 4, ("cell.weight_ih", "cell.weight_hh")),
    Kind(
        "MultiheadAttention",
        lambda: First(nn.MultiheadAttention(8, 2, batch_first=True), copies=3),
        (5, 8),
        40,
        ("inner.in_proj_weight", "inner.out_proj.weight"),
    ),
    Kind("Embedding", lambda: nn.Embedding(6, 4), (5,), 20, (), tokens=True),
    Kind(
        "Embedding, with `targets`",
        lambda: nn.Embedding(6, 4),
        (5,),
        20,
        mapping=cim.Mapping(targets=("linear", "embedding")),
        tokens=True,
    ),
    Kind("LayerNorm", lambda: nn.LayerNorm(8), (8,), 8, ()),
    Kind("BatchNorm1d", lambda: nn.BatchNorm1d(8), (8,), 8, ()),
    Kind("parametrised (weight_norm)", lambda: _normed(nn.Linear(8, 4)), (8,), 4, ()),
    Kind(
        "the same, with `include`",
        lambda: _normed(nn.Linear(8, 4)),
        (8,),
        4,
        ("parametrizations.weight.original1",),
        cim.Mapping(include=["layer.parametrizations.weight.original1"]),
    ),
    Kind("tied Linear", Tied, (8,), 8, ("there.weight",)),
    Kind("LazyLinear", lambda: nn.LazyLinear(4), (8,), 4),
    Kind("your own, with `include`", Custom, (8,), 4, mapping=cim.Mapping(include=["layer.weight"])),
    Kind("subclass of Linear, own forward", lambda: Scaled(8, 4), (8,), 4),
]


class Classifier:
    """A plain LightningModule around one kind of layer; records the layer's weights in every training step."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.layer, self.head = kind.build(), nn.Linear(kind.outputs, CLASSES)
        self.seen, self.gradients, self.passes = [], [], 0
        self.watched = [f"layer.{name}" for name, _ in self.layer.named_parameters()]

    def forward(self, x):
        self.passes += 1
        return self.head(torch.relu(self.layer(x)).flatten(1))

    def held(self):
        """The layer's parameters as a step computes with them now."""
        found = {}
        for name in self.watched:
            path, _, attribute = name.rpartition(".")
            value = self.get_submodule(path)._parameters[attribute]
            if not is_lazy(value):
                found[name] = value.detach().clone()
        return found

    def training_step(self, batch, batch_idx):
        self.seen.append(self.held())
        return F.cross_entropy(self(batch[0]), batch[1])

    def on_before_optimizer_step(self, optimizer):
        of_parameters = self.named_parameters()
        self.gradients.append({name: value.grad.clone() for name, value in of_parameters if value.grad is not None})

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", F.cross_entropy(self(batch[0]), batch[1]), batch_size=len(batch[1]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", F.cross_entropy(self(batch[0]), batch[1]), batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)
