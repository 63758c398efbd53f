"""Any LightningModule goes from injection to chips to their percentile unchanged, and plain PyTorch gives the same."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, assert_equal, make, make_trainer

TRAINED, SIGMA = cim.Gaussian(0.1), cim.Gaussian(0.3)
CHIPS, K = 20, 50  # 20 chips are enough for the median
CLASSES, SIZE, BATCH = 4, 64, 16  # powers of two, so that an average of batch averages is exact


def images(seed, shuffle=False):
    """Noisy 8 x 8 images of which one of four stripes of rows is bright."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(SIZE) % CLASSES
    x = torch.randn(SIZE, 1, 8, 8, generator=generator)
    x[torch.arange(SIZE), 0, 2 * y] += 2.0
    return DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=shuffle)


class Classifier:
    """The LightningModule of a tutorial; a network is all that differs."""

    def __init__(self):
        super().__init__()
        self.net = self.build()

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy(self(x), y)

    def test_step(self, batch, batch_idx):
        x, y = batch
        logits = self(x)
        self.log("acc", (logits.argmax(1) == y).float().mean(), batch_size=len(y))
        self.log("loss", F.cross_entropy(logits, y), batch_size=len(y))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class MLP(Classifier):
    mapped = ("1.weight", "3.weight")

    def build(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, CLASSES))


class CNN(Classifier):
    mapped = ("0.weight", "5.weight")

    def build(self):
        conv = nn.Conv2d(1, 8, 3, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, CLASSES))


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        inside = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inside + self.shortcut(x))


class ResNet(Classifier):
    mapped = ("0.conv1.weight", "0.conv2.weight", "0.shortcut.weight", "2.weight")

    def build(self):
        return nn.Sequential(ResidualBlock(1, 8), nn.Flatten(), nn.Linear(8 * 16, CLASSES))


class HandWrittenAttention(nn.Module):
    """Two heads over three linear layers in one."""

    def __init__(self, width):
        super().__init__()
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / (width // 2) ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(n, length, width))


class TorchAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class ViT(nn.Module):
    """Patches of 2 x 2, one pre-norm block, mean over tokens."""

    def __init__(self, attention, width=16):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 16, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(x.mean(1))


VIT = ("patch.weight", "mlp.0.weight", "mlp.2.weight", "head.weight")


class HandWrittenViT(Classifier):
    mapped = (*VIT, "attention.qkv.weight", "attention.out.weight")

    def build(self):
        return ViT(HandWrittenAttention)


class TorchViT(Classifier):
    mapped = (*VIT, "attention.attention.in_proj_weight", "attention.attention.out_proj.weight")

    def build(self):
        return ViT(TorchAttention)


class Rows(nn.Module):
    """A GRU that reads an image row by row."""

    def __init__(self):
        super().__init__()
        self.gru, self.head = nn.GRU(8, 16, batch_first=True), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.head(self.gru(x.squeeze(1))[0][:, -1])


class GRU(Classifier):
    mapped = ("gru.weight_ih_l0", "gru.weight_hh_l0", "head.weight")

    def build(self):
        return Rows()


MODULES = [MLP, CNN, ResNet, HandWrittenViT, TorchViT, GRU]


def trained(flavour, base, callbacks):
    model = make(flavour, base)
    torch.manual_seed(0)
    make_trainer(flavour, callbacks=callbacks, max_epochs=10, num_sanity_val_steps=0).fit(model, images(1))
    return model


class Plain(nn.Module):
    """The network without Lightning, under the same name, because a parameter's name is part of what a chip is."""

    def __init__(self, net):
        super().__init__()
        self.net = net


def average(values):
    """Mean over equal batches, added in float32 as Lightning adds."""
    values = list(values)
    return (sum(values, torch.zeros(())) / len(values)).item()


@torch.no_grad()
def plain_loop(net):
    """Accuracy and loss of each chip in plain PyTorch."""
    model = Plain(net).eval()
    population = cim.ChipPopulation(model, SIGMA, seed=5)
    accuracies, losses = [], []
    for index in range(CHIPS):
        with cim.on_chip(model, population[index]):
            batches = [(model.net(x), y) for x, y in images(2)]
        accuracies.append(average((logits.argmax(1) == y).float().mean() for logits, y in batches))
        losses.append(average(F.cross_entropy(logits, y) for logits, y in batches))
    return np.array(accuracies), np.array(losses)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("base", MODULES)
def test_injection_then_chips_then_percentile(base, flavour):
    clean, model = trained(flavour, base, []), trained(flavour, base, [cim.VariationInjection(TRAINED)])
    names = {f"net.{name}" for name in base.mapped}
    assert set(cim.chip_weights(model, cim.ChipPopulation(model, SIGMA)[0])) == names
    for name in names:  # training under variation went another way, everywhere
        assert not torch.equal(model.get_parameter(name), clean.get_parameter(name))
    before = copy.deepcopy(model.state_dict())

    result = cim.evaluate_chips(
        make_trainer(flavour), model, images(2), variation=SIGMA, chips=CHIPS, seed=5, k=K, progress=False
    )
    accuracies, losses = plain_loop(copy.deepcopy(model.net))
    assert result.of("acc").tolist() == accuracies.tolist()
    # evaluate_chips lays convolutions out channels-last, which may add in another order.
    layout = any(isinstance(module, nn.Conv2d) for module in model.modules())
    np.testing.assert_allclose(result.of("loss"), losses, rtol=1e-5 if layout else 0)
    assert len(set(losses)) == CHIPS

    assert result.mean("acc") > 1.5 / CLASSES
    point = result.kpp("acc", K)
    assert point.value == pytest.approx(np.quantile(accuracies, K / 100))
    assert point.low <= point.value <= point.high
    assert_equal(dict(model.state_dict()), dict(before))
