"""Small networks whose stages are known: VGG-8, ResNet-18, a GRU and MLPs."""

import itertools

import torch
from torch import nn


def vgg8(width=4):
    """Two convolutions, a pool, and so on, as in the reference code of NeFT; paths are numbers."""
    layers, channels = [], 3
    for out in (1, 2, "pool", 4, 4, "pool", 8, 8, "pool"):
        if out == "pool":
            layers.append(nn.MaxPool2d(2))
            continue
        layers += [nn.Conv2d(channels, out * width, 3, padding=1, bias=False), nn.BatchNorm2d(out * width), nn.ReLU()]
        channels = out * width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * 16, 32), nn.ReLU(), nn.Linear(32, 10))


class BasicBlock(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False), nn.BatchNorm2d(outside)
        self.conv2, self.bn2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False), nn.BatchNorm2d(outside)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride > 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """ResNet-18 for 32 x 32 images."""

    def __init__(self, width=4, device=None):
        super().__init__()
        with torch.device(device or "cpu"):
            self.conv1, self.bn1, self.relu = nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
            for stage in range(4):
                out = width << stage
                first = BasicBlock(max(width, out // 2), out, 2 if stage else 1)
                setattr(self, f"layer{stage + 1}", nn.Sequential(first, BasicBlock(out, out, 1)))
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width * 8, 10)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.pool(x).flatten(1))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.gru, self.hidden, self.act, self.head = (
            nn.GRU(3, 8, batch_first=True),
            nn.Linear(8, 6),
            nn.ReLU(),
            nn.Linear(6, 2),
        )

    def forward(self, x):
        return self.head(self.act(self.hidden(self.gru(x)[0][:, -1])))


def mlp(*widths):
    layers = []
    for inside, outside in itertools.pairwise(widths):
        layers += [nn.Linear(inside, outside), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
