"""The digits fixture: scikit-learn's 1,797 digits of 8 x 8, small networks, and trained copies, in plain PyTorch."""

import copy
from functools import lru_cache
from itertools import count

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_cim.chip import Chip, on_chip
from lightning_cim.variation import Gaussian

TRAIN, VAL = 1000, 297
EPOCHS = 25


@lru_cache
def digits():
    """``(train, val, test)``: 1000, 297 and 500 images (N, 1, 8, 8) in 0 .. 1 with their labels; one fixed split."""
    from sklearn.datasets import load_digits

    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(found.target, dtype=torch.long)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    parts = order[:TRAIN], order[TRAIN : TRAIN + VAL], order[TRAIN + VAL :]
    return tuple(TensorDataset(images[part], labels[part]) for part in parts)


def digits_cnn():
    """Three convolutions with batch norm, two linear layers; 22,800 weights on crossbars."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


def digits_mlp():
    """64-32-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def full_scale(sigma):
    """8-bit weights on 2-bit devices, sigma relative to a device's range."""
    return Gaussian(sigma, sigma_ref="full_scale", weight_bits=8, device_bits=2)


def trained_digits(sigma=0.0, seed=0, epochs=EPOCHS, net=digits_cnn):
    """A network trained on the digits, in eval mode; a fresh copy at each call, trained once a process.

    With ``sigma`` every batch is computed on a fresh chip of ``full_scale(sigma)``.
    """
    return copy.deepcopy(_trained(sigma, seed, epochs, net))


@lru_cache
def _trained(sigma, seed, epochs, net):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = net()
        loader = DataLoader(digits()[0], batch_size=64, shuffle=True)
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * len(loader))
        chips = (Chip(full_scale(sigma), seed, index, stream="train") for index in count())
        for _ in range(epochs):
            for x, y in loader:
                with on_chip(model, next(chips)):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()
                optimizer.step()
                schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model, dataset):
    """Share of right answers of a classifier, as it is (call ``eval()`` before)."""
    x, y = dataset.tensors
    return (model(x).argmax(1) == y).float().mean().item()
