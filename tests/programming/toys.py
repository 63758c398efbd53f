"""A small network whose sensitivity is scripted, and scores computed by hand."""

import torch
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.programming.sensitivity import Sensitivity
from lightning_cim.programming.verified import VerifiedChip
from tests.evaluation.toys import dataset

VARIATION = cim.Gaussian(0.4)
NAMES = ("0.weight", "2.weight")


def net():
    """Learns ``dataset`` (which of two inputs is larger) at once; 48 weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    inputs, labels = dataset(200, seed=9).tensors
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model


def batches(size=96, seed=0, batch_size=32):
    return DataLoader(dataset(size, seed), batch_size=batch_size)


def scripted(model, seed=0):
    """A sensitivity out of thin air."""
    generator = torch.Generator().manual_seed(seed)
    return Sensitivity(
        {name: torch.rand(model.state_dict()[name].shape, generator=generator) for name in NAMES}, "scripted", 1
    )


def order_by_hand(model, sensitivity):
    """(name, index) of every weight, by falling H * max|W|^2."""
    entries = []
    for name in NAMES:
        weight = model.state_dict()[name]
        score = sensitivity.values[name].double() * weight.abs().max().double() ** 2
        entries += [(-value, name, index) for index, value in enumerate(score.flatten().tolist())]
    return [(name, index) for _, name, index in sorted(entries)]


def masks_by_hand(model, order, count):
    masks = {name: torch.zeros_like(model.state_dict()[name], dtype=torch.bool) for name in NAMES}
    for name, index in order[:count]:
        masks[name].view(-1)[index] = True
    return masks


@torch.no_grad()
def accuracy(model, weights, data):
    """Share of right answers of a copy with these weights."""
    inputs, labels = data.tensors
    state = {**model.state_dict(), **weights}
    logits = torch.func.functional_call(model, state, (inputs,))
    return (logits.argmax(1) == labels).double().mean().item()


def accuracy_on(model, masks, r, data, variation=VARIATION, residual=None):
    chip = VerifiedChip(variation, 0, r, verified=masks, residual=residual)
    return accuracy(model, cim.chip_weights(model, chip), data)
