"""Heterogeneous reconstruction as a LightningModule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from rich.progress import track
from torch import Tensor

import lightning_cim as cim
from recipes.cryo_em.batches import Batch
from recipes.cryo_em.centring import centre
from recipes.cryo_em.consensus import consensus
from recipes.cryo_em.deformation import Values
from recipes.cryo_em.loss import Domain, ImageLoss
from recipes.cryo_em.maps import read_map
from recipes.cryo_em.model import CryoFormer, Sees
from recipes.cryo_em.poses import PROBE_EVERY, GivenPoses, Pose, PoseEncoder, PoseMode, RefinedPoses, pose_loss
from recipes.cryo_em.projector import Projector
from recipes.cryo_em.schedule import Schedule
from recipes.cryo_em.support import check, support_of

CROSSBARS = cim.Mapping(
    targets=(),
    include=("model.encoder.*.weight", "model.decoder.*.weight", "model.head.*.weight", "model.volume.table"),
    exclude=("*norm*",),
)
"""What lies on a chip: weights of the encoder, of the decoder's and the head's linear layers, and the feature table,
whose product with the queries gives the attention. Base map, poses, attention products and projection are digital."""


@dataclass(frozen=True)
class Rates:
    """Largest learning rates, and when poses begin to change; see `Schedule`.

    Attributes:
        encoder: Of the image encoder.
        decoder: Of the decoder, its head and the feature volume.
        base: Of the base map.
        pose_from: Share of the run that takes poses as given.
    """

    encoder: float = 1e-3
    decoder: float = 3e-3
    base: float = 1e-3
    pose_from: float = 0.3


class CryoModule(L.LightningModule):
    """Trains a CryoFormer on particle images.

    Three phases: `prepare` makes the consensus map, by Fourier inversion, and the support from it; then Adam fits
    everything. The run's length is the Trainer's ``max_steps`` or ``max_epochs``; the schedule stretches to it. What is
    random is a pure function of seed and step, so that a resumed fit ends like an uninterrupted one.

    Args:
        size: Box size D, even.
        pixel_size: In Angstrom.
        particles: How many particles are trained on.
        queries: N, structure queries.
        channels: C.
        hidden: H, width of the last layer before density.
        blocks: Of the decoder.
        heads: Of its attentions.
        decoder: ``transformer``, or the ablation ``mlp``.
        values: What cross-attention mixes: the image's ``features`` or the ``queries``.
        volume: ``table``: features for each voxel of the support; ``hash``: a multi-resolution hash grid.
        pose: ``given``; ``refine``: a correction for each particle; ``encoder``: read off the image.
        sees: What the image encoder sees: the ``residual`` in the molecule's frame, or the ``image`` alone.
        encoder_width: Of the hidden layers.
        encoder_depth: How many.
        pose_errors: By how many degrees and pixels given poses are thought to be off, for ``pose="refine"``.
        smooth: Standard deviation in voxels of a blur of what images add to the base.
        latent_noise: Standard deviation of what is added to latents, whose variance is 1, while training.
        rates: Learning rates.
        loss: ``fourier``: all pixels; ``real``: those in a circle.
        loss_radius: Of that circle, as a share of half the box.
        oversampling: Of the projector's grid.
        threshold: Of the support, as a share of the consensus map's 99.9 % quantile.
        dilation: Voxels by which the support grows beyond that.
        mask: An .mrc file with a support to use instead.
        seed: Of first weights and of the noise of latents.

    Attributes:
        model: The CryoFormer.

    Raises:
        ValueError: Options out of range.
    """

    prepared: Tensor

    def __init__(
        self,
        size: int,
        pixel_size: float,
        particles: int = 0,
        queries: int = 4,
        channels: int = 16,
        hidden: int = 16,
        blocks: int = 3,
        heads: int = 4,
        decoder: Literal["transformer", "mlp"] = "transformer",
        values: Values = "features",
        volume: Literal["table", "hash"] = "table",
        pose: PoseMode = "given",
        sees: Sees = "residual",
        encoder_width: int = 128,
        encoder_depth: int = 10,
        pose_errors: tuple[float, float] = (2.0, 1.0),
        smooth: float = 0.7,
        latent_noise: float = 0.5,
        rates: Rates = Rates(),
        loss: Domain = "fourier",
        loss_radius: float = 0.95,
        oversampling: int = 2,
        threshold: float = 0.12,
        dilation: int = 1,
        mask: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = {
            "size": size,
            "pixel_size": pixel_size,
            "particles": particles,
            "queries": queries,
            "channels": channels,
            "hidden": hidden,
            "blocks": blocks,
            "heads": heads,
            "decoder": decoder,
            "values": values,
            "volume": volume,
            "pose": pose,
            "sees": sees,
            "encoder_width": encoder_width,
            "encoder_depth": encoder_depth,
            "pose_errors": tuple(pose_errors),
            "smooth": smooth,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = build(self.settings)
        self.projector = Projector(size, oversampling)
        self.loss = ImageLoss(size, loss, loss_radius)
        self.threshold, self.dilation, self.mask, self.seed = threshold, dilation, mask, seed
        self.rates, self.latent_noise = rates, latent_noise
        self.schedule = self._schedule(1)  # rates out of range end here, not when fitting begins
        self.register_buffer("prepared", torch.tensor(False))

    def _schedule(self, steps: int) -> Schedule:
        return Schedule(steps, **vars(self.rates))

    def prepare(self, batches: Iterable[Batch], progress: bool = False) -> None:
        """The first two phases: the consensus map of all particles, for ``pose="refine"`` with shifts, and the support.

        Args:
            batches: Each particle once; gone through several times to find shifts.
            progress: Whether to show bars.

        Raises:
            ValueError: A user's mask of another size, or a map without positive density.
        """
        model = self.model
        mask = None
        if self.mask is not None:
            try:
                mask = check(read_map(self.mask)[0], model.size)
            except ValueError as error:
                raise ValueError(f"{self.mask}: {error}") from None
        if isinstance(model.poses, RefinedPoses):
            found = centre(model.poses, batches, self.projector, progress)
        else:
            found = consensus(track(batches, "Consensus", disable=not progress), model.size, self.device)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model.set_support(support_of(found, self.threshold, self.dilation) if mask is None else mask)
            model.base.copy_(found)
        self.prepared.fill_(True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, one group for each kind of parameter; learning rates are set at every step."""
        model = self.model
        groups: list[dict[str, Any]] = [
            {"name": "encoder", "params": [*model.encoder.parameters()]},
            {
                "name": "decoder",
                "params": [*model.decoder.parameters(), *model.head.parameters(), *model.volume.parameters()],
            },
            {"name": "base", "params": [model.base]},
        ]
        if isinstance(model.poses, PoseEncoder):
            groups[0]["params"] += [*model.poses.parameters()]
        return torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.999), eps=1e-10)

    def on_train_start(self) -> None:
        """Learn the length of the run.

        Raises:
            ValueError: No consensus map yet, or a run without an end.
        """
        if not self.prepared:
            raise ValueError("call prepare(batches) before fitting: it makes the consensus map and the support")
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            raise ValueError("how long to fit is unknown: give the Trainer max_epochs, such as --trainer.max_epochs=12")
        self.schedule = self._schedule(int(steps))

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates of this step."""
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.schedule.lr(group["name"], self.global_step)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean squared error of the predicted images."""
        given, own = Pose(batch["rotation"], batch["shift"]), not isinstance(self.model.poses, GivenPoses)
        joint = self.global_step >= self.schedule.pose_begin
        pose, aside = given, None
        if own and (joint or isinstance(self.model.poses, PoseEncoder)):
            found = self.model.poses(batch["image"], given, batch["index"])
            pose, aside = (found, None) if joint else (given, pose_loss(found, given))
        spectrum = self.predict(batch, pose)
        if own and joint and isinstance(self.model.poses, RefinedPoses) and self._probes_now():
            self.model.poses.probe(self.projector.images(spectrum), batch["index"], self._seed_of_step())
        error = self.loss(spectrum, batch["image"])
        self._error = error.detach()
        if self.global_step % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self.log("loss", error.detach(), prog_bar=True)
        return error if aside is None else error + aside  # type: ignore[no-any-return]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Improve the poses of this batch's particles, which Adam leaves alone."""
        poses = self.model.poses
        if isinstance(poses, RefinedPoses) and poses.shift.grad is not None:
            poses.step(float(self.trainer.strategy.reduce(self._error, reduce_op="mean")))

    def predict(self, batch: Batch, pose: Pose) -> Tensor:
        """Spectra (b, D, D // 2 + 1) of the images that the model expects to see."""
        seen_from = {"rotation": pose.rotation.detach(), "shift": pose.shift.detach()}
        latents = self.model.encode({**batch, **seen_from})
        if self.training:
            self.model.follow(latents)
            generator = torch.Generator().manual_seed(self._seed_of_step())
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            latents = latents + self.latent_noise * noise
        densities = self.model.densities(latents)
        spectrum = self.projector(densities, self.model.positions, pose.rotation, pose.shift)
        return spectrum * batch["ctf"] if "ctf" in batch else spectrum  # type: ignore[no-any-return]

    def _probes_now(self) -> bool:
        return (self.global_step - self.schedule.pose_begin) % PROBE_EVERY == 0

    def _seed_of_step(self) -> int:
        return self.seed * 1_000_003 + self.global_step

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Error on images that were not trained on, in the poses they are given."""
        self.log("val_loss", self._unseen(batch), prog_bar=True, batch_size=len(batch["image"]))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """As `validation_step`."""
        self.log("test_loss", self._unseen(batch), batch_size=len(batch["image"]))

    def _unseen(self, batch: Batch) -> Tensor:
        given = Pose(batch["rotation"], batch["shift"])
        return self.loss(self.predict(batch, given), batch["image"])  # type: ignore[no-any-return]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `load_model` needs to build the model without the particles."""
        checkpoint["cryoformer"] = self.settings


def build(settings: Mapping[str, Any]) -> CryoFormer:
    """An untrained model from `CryoModule.settings`."""
    return CryoFormer(**settings)


def load_model(path: str | Path) -> CryoFormer:
    """The model of a fit's checkpoint.

    Raises:
        ValueError: No checkpoint of this recipe.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such checkpoint; `fit` writes one into its folder")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping) or "cryoformer" not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint of `cryoformer.py fit`")
    model = build(checkpoint["cryoformer"])
    own = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("model.")}
    model.load_state_dict({name.removeprefix("model."): value for name, value in own.items()})
    return model.eval()
