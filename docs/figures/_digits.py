"""What the figures of the method pages share: digits, a small network, and a picture of bounded size."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset, random_split

mpl.use("Agg")
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
BLUE, RED, GREEN, GREY = "#1f4e79", "#c0392b", "#2e7d32", "#7f8c8d"
Batch = tuple[Tensor, Tensor]


def loaders() -> tuple[DataLoader[Any], DataLoader[Any], DataLoader[Any]]:
    """Training (1,000 images), validation (297) and test data (500)."""
    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).view(-1, 1, 8, 8) / 16
    generator = torch.Generator().manual_seed(0)
    train, val, test = random_split(TensorDataset(x, torch.tensor(labels)), [1000, 297, 500], generator)
    return DataLoader(train, 64, shuffle=True), DataLoader(val, 297), DataLoader(test, 500)


class Digits(L.LightningModule):
    """Two convolutions and a linear layer; 1,864 weights lie on crossbars."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.norm, self.fc = nn.BatchNorm2d(8), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (n, 1, 8, 8)."""
        x = F.max_pool2d(F.relu(self.norm(self.conv1(x))), 2)
        logits: Tensor = self.fc(F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1))
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def _judge(self, batch: Batch, stage: str) -> None:
        self.log(f"{stage}/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy."""
        self._judge(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy."""
        self._judge(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters(), 3e-3)


def trainer(*callbacks: Any, epochs: int = 15) -> L.Trainer:
    """A silent Trainer on the CPU."""
    return L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=list(callbacks),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def trained(*callbacks: Any, seed: int = 1, epochs: int = 15) -> Digits:
    """A network after a fit with callbacks."""
    train, val, _ = loaders()
    L.seed_everything(seed, verbose=False)
    model = Digits()
    trainer(*callbacks, epochs=epochs).fit(model, train, val)
    return model


def is_fast() -> bool:
    """Whether ``--fast`` was given: only to see that the script works."""
    return "--fast" in sys.argv


def save(figure: Figure, name: str) -> Path:
    """Write the picture beside the other pictures of these pages, or where the last argument says.

    Returns:
        The path.
    """
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    path = Path(given[-1]) if given else Path(__file__).parents[1] / "images" / f"{name}.png"
    figure.savefig(path, dpi=90)
    print(f"{path.name}: {path.stat().st_size} bytes")
    return path


def quiet() -> None:
    """One thread, and no advice of Lightning's."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
