"""A plain image classifier. Nothing in it knows about chips."""

from __future__ import annotations

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor
from torch.nn import functional as F

from recipes.image_classification.models import build_network, default_width

Batch = tuple[Tensor, Tensor]


class ImageClassifier(L.LightningModule):
    """Trains a network with cross-entropy, Adam and a cosine schedule over epochs.

    Args:
        arch: ``lenet``, ``vgg8``, ``resnet18``, ``resnet-small`` or ``timm:NAME``.
        width: Share of the published channels; default: 1/8 for vgg8, 1/4 for resnet18, otherwise 1.
        lr: Adam's learning rate at the first epoch.
        pretrained: Start from timm's weights (downloads).
        classes: How many; the recipe takes it from the data.
        channels: Of the images; the recipe takes it from the data.
        size: Pixels a side; the recipe takes it from the data.

    Raises:
        ValueError: Arguments that no network fits.
    """

    def __init__(
        self,
        arch: str = "vgg8",
        width: float | None = None,
        lr: float = 1e-3,
        pretrained: bool = False,
        classes: int = 10,
        channels: int = 1,
        size: int = 32,
    ) -> None:
        super().__init__()
        if not lr > 0:
            raise ValueError(f"model.lr must be > 0, got {lr!r}")
        self.lr = lr
        share = default_width(arch) if width is None else width
        network = build_network(arch, classes, channels, size, share, pretrained)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes) of images (B, channels, size, size)."""
        logits: Tensor = self.network(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of one batch."""
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(y))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``val/acc`` and ``val/loss``."""
        self._evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log ``test/acc`` and ``test/loss``."""
        self._evaluate(batch, "test")

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Logits (B, classes) of a batch, with or without labels."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        logits: Tensor = self(x)
        return logits

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Adam under a cosine over the Trainer's epochs."""
        epochs = self.trainer.max_epochs
        if epochs is None or epochs < 1:
            raise ValueError("the cosine schedule needs to know the number of epochs: give the Trainer max_epochs")
        optimizer = torch.optim.Adam(self.parameters(), lr=self.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)}

    def _evaluate(self, batch: Batch, stage: str) -> None:
        x, y = batch
        logits = self(x)
        accuracy = (logits.argmax(1) == y).float().mean()
        self.log(f"{stage}/acc", accuracy, batch_size=len(y), prog_bar=stage == "val", sync_dist=True)
        self.log(f"{stage}/loss", F.cross_entropy(logits, y), batch_size=len(y), sync_dist=True)
