"""What the tests of the worst-case search share: data of three classes, networks that learn them, methods."""

import torch
from torch import nn
from torch.utils.data import TensorDataset

FAST = {"progress": False}
METHODS = [
    {"method": "sign", "steps": 4},
    {"method": "sign", "steps": 1},
    # Adam's steps are half as large as the box, so that clipping is what keeps the chip inside.
    *({"method": "lagrange", "steps": 3, "rounds": 4, "lr": 0.5, "distance": name} for name in ("max", "l2", "linf")),
]


def cross_entropy_data(size=40, features=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, features, generator=generator)
    return TensorDataset(x, (x[:, :classes] + 0.3 * torch.randn(size, classes, generator=generator)).argmax(1))


def fitted(net, dataset, steps=60):
    x, y = dataset.tensors
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net
