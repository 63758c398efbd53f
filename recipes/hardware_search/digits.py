"""8x8 images of digits, and the network of a design."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

Split = tuple[Tensor, Tensor]

CLASSES = 10
HIDDEN = 64
"""Features between the two linear layers, as the cost model's template has them."""
SHARES = (0.6, 0.2, 0.2)
"""Of training, validation and test."""


@dataclass(frozen=True)
class Splits:
    """Images (N, 1, 8, 8) in [-1, 1] and labels.

    Attributes:
        train: What networks are trained on.
        val: What the search sees.
        test: What the final scores are of.
    """

    train: Split
    val: Split
    test: Split


@lru_cache(maxsize=1)
def digits() -> Splits:
    """The 1797 handwritten digits that come with scikit-learn, always split in the same way.

    Raises:
        ImportError: scikit-learn, of the extra ``vision``, is missing.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits come with scikit-learn: pip install 'lightning-cim[vision]'") from error
    pixels, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(pixels).float().reshape(-1, 1, 8, 8) / 8 - 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    ends = [round(sum(SHARES[:count]) * len(x)) for count in range(len(SHARES) + 1)]
    parts = [order[start:end] for start, end in itertools.pairwise(ends)]
    y = torch.from_numpy(labels).long()
    return Splits(*((x[part], y[part]) for part in parts))


def loader(split: Split, batch_size: int = 512, shuffle: bool = False) -> DataLoader[tuple[Tensor, ...]]:
    """Batches of a split."""
    return DataLoader(TensorDataset(*split), batch_size=batch_size, shuffle=shuffle)


class DesignedNetwork(L.LightningModule):
    """Network of a design: six same-padded convolutions, pooling after the 2nd, 4th and 6th, two linear layers.

    It knows nothing of chips.

    Args:
        design: With slots c12, c34, c56, k12, k34 and k56.
        steps: Of training, for the learning rate's schedule.
        learning_rate: Its largest value.
    """

    def __init__(self, design: dict[str, Any], steps: int, learning_rate: float = 4e-3) -> None:
        super().__init__()
        self.steps, self.learning_rate = steps, learning_rate
        layers: list[nn.Module] = []
        channels = 1
        for pair in ("12", "34", "56"):
            width, kernel = int(design[f"c{pair}"]), int(design[f"k{pair}"])
            for _ in range(2):
                convolution = nn.Conv2d(channels, width, kernel, padding=kernel // 2, bias=False)
                layers += [convolution, nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            layers.append(nn.MaxPool2d(2))
        self.net = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10) of images (N, 1, 8, 8)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Log the accuracy."""
        self.log("acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[0]))

    def configure_optimizers(self) -> Any:
        """AdamW with one cycle of the learning rate."""
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, weight_decay=1e-3)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}
