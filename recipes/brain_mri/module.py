"""Learns healthy brains, and says where a brain differs from what it has learnt."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from numpy.typing import NDArray
from torch import Tensor

from recipes.brain_mri.air import AIRTransform, Mode
from recipes.brain_mri.models import Arch, learning_rate, network
from recipes.brain_mri.postprocess import anomaly_map, remove_small
from recipes.brain_mri.residuals import KINDS, Kind
from recipes.brain_mri.residuals import loss as loss_of
from recipes.brain_mri.residuals import residual as residual_of
from recipes.brain_mri.scores import average_precision, dice
from recipes.brain_mri.volume import Volume

Grey = NDArray[np.float32]
Batch = dict[str, Tensor]

WARM_UP = 0.1
"""Share of the run in which the learning rate rises; then it falls to zero along a half cosine."""
_TRAINING, _VALIDATION = 0, 1


class Examined(NamedTuple):
    """One volume as the model sees it.

    Attributes:
        reconstruction: (H, W, D), intensities as in the volume: an inversion is undone.
        maps: Post-processed anomaly maps, (H, W, D), by residual.
    """

    reconstruction: Grey
    maps: dict[Kind, Grey]


class BrainModule(L.LightningModule):
    """A reconstruction model, its loss, and the residual that makes anomaly maps.

    Noise in training is a pure function of seed and step, so that a resumed run ends like an uninterrupted one.

    Args:
        arch: The model, see :func:`~recipes.brain_mri.models.network`.
        loss: What training minimises.
        residual: What anomaly maps are made of; independent of the loss, and free to change after training.
        air: Inversion of intensities inside the brain: ``auto`` decides on the healthy training volumes.
        size: Side of the slices.
        width: Channels of the model's first level; default: the model's own.
        lr: Highest learning rate of Adam; default: the model's own.
        loss_range: ``unit``: the loss sees [0, 1]. ``symmetric``: [-1, 1] with the constants of [0, 1], as in the
            released code's training.
        seed: Of first weights and of noise in training.

    Attributes:
        threshold: Of the anomaly map, for `test` on chips; NaN until someone sets it.

    Raises:
        ValueError: An unknown name, or a number out of range.
    """

    def __init__(
        self,
        arch: Arch = "dae",
        loss: Kind = "fq",
        residual: Kind = "fq",
        air: Mode = "auto",
        size: int = 96,
        width: int | None = None,
        lr: float | None = None,
        loss_range: Literal["unit", "symmetric"] = "unit",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if residual not in KINDS:
            raise ValueError(f"residual={residual!r}: there are {', '.join(KINDS)}")
        if loss_range not in ("unit", "symmetric"):
            raise ValueError(f"loss_range={loss_range!r}: there are unit and symmetric")
        self.lr = learning_rate(arch) if lr is None else lr
        if not self.lr > 0:
            raise ValueError(f"lr={lr}: want a number above 0")
        self.save_hyperparameters()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.network = network(arch, size, width)
        self.air = AIRTransform(air)
        self.criterion = loss_of(loss)
        self.residual, self.symmetric, self.seed = residual, loss_range == "symmetric", seed
        self.threshold = float("nan")

    def setup(self, stage: str) -> None:
        """Let the inversion see the healthy training volumes, and nothing else."""
        if stage == "fit":
            self.air.fit(self.trainer.datamodule.train)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Adam with one warm-up and one half cosine over the whole run."""
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("how long to train is unknown: give --trainer.max_epochs or --trainer.max_steps")
        optimizer = torch.optim.Adam(self.network.parameters(), self.lr)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.lr, total_steps=int(steps), pct_start=WARM_UP, cycle_momentum=False
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of healthy slices."""
        total = self._loss(self.air(batch["image"], batch["mask"]), self._generator(_TRAINING, self.global_step))
        self.log("train/loss", total, prog_bar=True, on_step=False, on_epoch=True, batch_size=len(batch["image"]))
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss with the same noise every time, and how far reconstructions at test time are from healthy."""
        image = self.air(batch["image"], batch["mask"])
        generator = self._generator(_VALIDATION, batch_idx)
        found = {"val/loss": self._loss(image, generator)}
        reconstruction = self.network(image)
        found |= {f"val/{kind}": residual_of(kind, reconstruction, image).mean() for kind in ("l1", "ssim", "fq")}
        self.log_dict(found, batch_size=len(image))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log average precision, and Dice if a threshold is set, of one whole volume with lesions."""
        volume = self.trainer.datamodule.lesion_test[int(batch["index"])]  # type: ignore[attr-defined]
        found = self.anomaly_maps(volume)
        self.log("test/auprc", average_precision(found, volume.seg), batch_size=1)
        if self.threshold == self.threshold:
            binary = remove_small(found > np.float32(self.threshold))
            self.log("test/dice", dice(binary, volume.seg), batch_size=1)

    def predict_step(self, batch: Batch, batch_idx: int) -> Grey:
        """The anomaly map of one whole volume."""
        return self.anomaly_maps(self.trainer.datamodule.predict_volumes[int(batch["index"])])  # type: ignore[attr-defined]

    def anomaly_maps(self, volume: Volume, residual: Kind | None = None) -> Grey:
        """The post-processed anomaly map of a volume.

        Args:
            volume: Any, of the model's size.
            residual: Instead of the module's own.

        Returns:
            (H, W, D) float32.
        """
        kind = residual or self.residual
        return self.examine(volume, [kind]).maps[kind]

    def examine(self, volume: Volume, residuals: Sequence[Kind]) -> Examined:
        """Reconstruct a volume once, and make a map of each residual.

        Args:
            volume: Any, of the model's size.
            residuals: Which maps.

        Raises:
            ValueError: A volume of another size.
        """
        size = self.network.size
        if volume.image.shape[:2] != (size, size):
            raise ValueError(
                f"{volume.name}: slices are {volume.image.shape[0]} x {volume.image.shape[1]}, the model was trained on"
                f" {size} x {size}"
            )
        with self._at_rest():
            mask = _slices(volume.mask).to(self.device)
            image = self.air(_slices(volume.image).to(self.device), mask)
            reconstruction = self.network(image)
            raw = {kind: residual_of(kind, reconstruction, image) for kind in residuals}
            shown = self.air(reconstruction, mask)
        maps = {kind: anomaly_map(_volume(values), volume.mask) for kind, values in raw.items()}
        return Examined(_volume(shown), maps)

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """No gradients, and layers as at test time."""
        was = self.training
        self.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.train(was)

    def _loss(self, image: Tensor, generator: torch.Generator) -> Tensor:
        reconstruction, penalty = self.network.training_pass(image, generator)
        if self.symmetric:
            reconstruction, image = 2 * reconstruction - 1, 2 * image - 1
        total: Tensor = self.criterion(reconstruction, image) + penalty
        return total

    def _generator(self, *numbers: int) -> torch.Generator:
        seed = np.random.SeedSequence([self.seed, *numbers]).generate_state(1, np.uint64)[0]
        return torch.Generator().manual_seed(int(seed >> np.uint64(1)))


def _slices(volume: NDArray[Any]) -> Tensor:
    """(H, W, D) to (D, 1, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(volume, -1, 0)))[:, None]


def _volume(slices: Tensor) -> Grey:
    """(D, 1, H, W) to (H, W, D)."""
    return np.ascontiguousarray(np.moveaxis(slices[:, 0].cpu().numpy(), 0, -1))
