"""The two networks of the recipe and the plain LightningModule that trains them.

Nothing here knows about compute-in-memory: variation, quantisation and sparsity come from callbacks of the Trainer.
"""

from __future__ import annotations

from typing import Literal

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import BinaryAccuracy, BinaryFBetaScore

Batch = tuple[Tensor, Tensor] | list[Tensor]


class ChipNet(nn.Module):
    """1-D CNN sized for a sparse 512-PE accelerator: 25,682 parameters, 2,809,984 MAC on 512 samples.

    Channels are multiples of 16 (the processing elements that share a scratch pad) and every pooling halves the length.
    The layer list is this recipe's choice; no source gives the layers of the ASP-DAC 2025 chip.

    Input: float `(batch, 1, length)` with `length >= 16`; output: logits `(batch, 2)`, column 1 is VA.

    Example:
        >>> net = ChipNet()
        >>> net(torch.zeros(3, 1, 512)).shape, sum(p.numel() for p in net.parameters())
        (torch.Size([3, 2]), 25682)
    """

    def __init__(self) -> None:
        """Build the layers with PyTorch's default initialisation."""
        super().__init__()
        self.conv1 = nn.Conv1d(1, 16, 7, padding=3, bias=False)
        self.bn1 = nn.BatchNorm1d(16)
        self.conv2 = nn.Conv1d(16, 32, 5, padding=2, bias=False)
        self.bn2 = nn.BatchNorm1d(32)
        self.conv3 = nn.Conv1d(32, 64, 5, padding=2, bias=False)
        self.bn3 = nn.BatchNorm1d(64)
        self.conv4 = nn.Conv1d(64, 64, 3, padding=1, bias=False)
        self.bn4 = nn.BatchNorm1d(64)
        self.fc = nn.Linear(64, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(batch, 2)` of windows `(batch, 1, length)`."""
        if x.ndim != 3 or x.shape[1] != 1 or x.shape[2] < 16:
            raise ValueError(f"ChipNet takes windows of shape (batch, 1, length >= 16), got {tuple(x.shape)}")
        x = F.max_pool1d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.max_pool1d(F.relu(self.bn2(self.conv2(x))), 2)
        x = F.max_pool1d(F.relu(self.bn3(self.conv3(x))), 2)
        x = F.max_pool1d(F.relu(self.bn4(self.conv4(x))), 2)
        logits: Tensor = self.fc(x.mean(dim=2))
        return logits


class IEGMNet(nn.Module):
    """The baseline net of the 2022 TinyML contest: five strided convolutions, then 740 -> 10 -> 2.

    Input: float `(batch, 1, 1250)` (5 s at 250 Hz); output: logits `(batch, 2)`, column 1 is VA.

    Example:
        >>> IEGMNet()(torch.zeros(2, 1, 1250)).shape
        torch.Size([2, 2])
    """

    def __init__(self) -> None:
        """Build the layers with PyTorch's default initialisation."""
        super().__init__()
        layers: list[nn.Module] = []
        for c_in, c_out, kernel in ((1, 3, 6), (3, 5, 5), (5, 10, 4), (10, 20, 4), (20, 20, 4)):
            layers += [nn.Conv1d(c_in, c_out, kernel, stride=2), nn.ReLU(), nn.BatchNorm1d(c_out)]
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(740, 10), nn.ReLU(), nn.Linear(10, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(batch, 2)` of windows `(batch, 1, 1250)`."""
        if x.ndim != 3 or tuple(x.shape[1:]) != (1, 1250):
            raise ValueError(f"IEGMNet takes windows of shape (batch, 1, 1250), got {tuple(x.shape)}: set window=1250")
        logits: Tensor = self.head(self.features(x).flatten(1))
        return logits


class MissedVARate(Metric):
    """Share of VA windows that were called non-VA, over an epoch: FN / (TP + FN), in [0, 1].

    0 where there is no VA window, as in the contest's rule SEN = 1.

    Example:
        >>> metric = MissedVARate()
        >>> metric(torch.tensor([1, 0, 1]), torch.tensor([1, 1, 0]))
        tensor(0.5000)
    """

    higher_is_better = False
    full_state_update = False
    missed: Tensor
    va: Tensor

    def __init__(self) -> None:
        """Start with no window counted."""
        super().__init__()
        self.add_state("missed", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("va", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count decisions `preds` (N,) against labels `target` (N,), both 0 or 1."""
        self.missed += ((preds == 0) & (target == 1)).sum()
        self.va += (target == 1).sum()

    def compute(self) -> Tensor:
        """Return the rate over all windows counted so far."""
        return self.missed / self.va.clamp(min=1)


class ECGClassifier(L.LightningModule):
    """VA against non-VA on single-lead windows, in plain Lightning.

    Batches are `(x (B, 1, length) float32, y (B,) int64)` with y = 1 for VA. Logs `val/loss`, `val/acc`, `val/f2` and
    `val/missed_va` (and `test/...`), each over the whole epoch. `f2` is 0 for an epoch without VA windows.

    Args:
        arch: `"chipnet"` or `"iegmnet"`.
        lr: peak learning rate of OneCycle with AdamW.
        weight_decay: decoupled weight decay of AdamW.
        label_smoothing: of the training loss, in [0, 1); validation and test losses are not smoothed.
        threshold: a window is VA if its VA probability is at least this; in (0, 1). Choose it on validation patients
            and assign it: `model.threshold = t`. It is a buffer, so every way of loading a checkpoint restores it.

    Raises:
        ValueError: for an unknown `arch` or a threshold outside (0, 1).
    """

    decision_threshold: Tensor

    def __init__(
        self,
        arch: Literal["chipnet", "iegmnet"] = "chipnet",
        lr: float = 3e-3,
        weight_decay: float = 1e-3,
        label_smoothing: float = 0.02,
        threshold: float = 0.5,
    ) -> None:
        """Build the net and the epoch metrics."""
        super().__init__()
        self.save_hyperparameters()
        self.register_buffer("decision_threshold", torch.zeros(()))
        self.threshold = threshold
        nets: dict[str, type[nn.Module]] = {"chipnet": ChipNet, "iegmnet": IEGMNet}
        if arch not in nets:
            raise ValueError(f"arch must be one of {sorted(nets)}, got {arch!r}")
        self.net = nets[arch]()
        metrics = MetricCollection(
            {"acc": BinaryAccuracy(), "f2": BinaryFBetaScore(beta=2.0), "missed_va": MissedVARate()},
            compute_groups=False,
        )
        self.val_metrics = metrics.clone(prefix="val/")
        self.test_metrics = metrics.clone(prefix="test/")

    @property
    def threshold(self) -> float:
        """Smallest VA probability that is called VA."""
        return float(self.decision_threshold)

    @threshold.setter
    def threshold(self, value: float) -> None:
        if not 0.0 < value < 1.0:
            raise ValueError(f"threshold must be in (0, 1), got {value}")
        self.decision_threshold.fill_(value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(B, 2)` of windows `(B, 1, length)`."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the smoothed cross entropy of one batch."""
        x, y = batch
        loss = F.cross_entropy(self(x), y, label_smoothing=self.hparams["label_smoothing"])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the `val/` metrics."""
        self._evaluate(batch, "val", self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the `test/` metrics."""
        self._evaluate(batch, "test", self.test_metrics)

    def predict_step(self, batch: Batch | Tensor, batch_idx: int) -> Tensor:
        """Return the VA probability `(B,)` of a batch, with or without its labels."""
        x = batch if isinstance(batch, Tensor) else batch[0]
        probability: Tensor = self(x).softmax(dim=1)[:, 1]
        return probability

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW under one OneCycle over all steps of the Trainer."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("OneCycle needs to know the number of steps: give the Trainer max_epochs or max_steps")
        lr = self.hparams["lr"]
        optimizer = torch.optim.AdamW(self.parameters(), lr=lr, weight_decay=self.hparams["weight_decay"])
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=lr, total_steps=int(steps), pct_start=0.15)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _evaluate(self, batch: Batch, stage: str, metrics: MetricCollection) -> None:
        x, y = batch
        logits = self(x)
        called_va = (logits.softmax(dim=1)[:, 1] >= self.threshold).long()
        metrics.update(called_va, y)
        self.log(f"{stage}/loss", F.cross_entropy(logits, y), batch_size=len(y), on_epoch=True, sync_dist=True)
        self.log_dict(metrics, batch_size=len(y), on_step=False, on_epoch=True)
