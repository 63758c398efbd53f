"""Fitting of one image as a LightningModule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

import lightning_cim as cim
from recipes.gaussian_image import quantise
from recipes.gaussian_image.context import KINDS, ContextStats
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.images import load, pyramid
from recipes.gaussian_image.rasterizers import Backend, rasterizer
from recipes.gaussian_image.schedule import Schedule, Stage
from recipes.gaussian_image.seeds import density_of
from recipes.gaussian_image.structured import Attributes, SgiConfig, StructuredImage

CROSSBARS = cim.Mapping(targets=(), include=("structured.color_mlp", "structured.shape_mlp"))
"""What lies on a chip: the two networks that make Gaussians. The entropy model is digital, or files cannot be read."""

LEAST_RATED_SEEDS = 4096
"""The rate term of each step counts 5 % of all seeds, but at least so many."""

TYPICAL_RMSE = 0.03
"""Root of the mean squared error, that of 30.5 dB, at which the losses ``psnr`` and ``rmse`` weigh a bit alike."""


class Rate(NamedTuple):
    """How many bits an ideal coder needs.

    Attributes:
        per_attribute: Bits of attributes and hash grid, per number that seeds carry. Has gradients.
        total: Bits of everything, networks in half precision among it.
    """

    per_attribute: Tensor
    total: Tensor


class ImageData(L.LightningDataModule):
    """One image, shown at every step.

    Args:
        image: A name or a file; see `images.load`.

    Attributes:
        pixels: (H, W, 3) in [0, 1].
    """

    def __init__(self, image: str = "astronaut") -> None:
        super().__init__()
        self.pixels = load(image)

    def train_dataloader(self) -> DataLoader[Tensor]:
        """The image, as often as the Trainer takes steps."""
        trainer = self.trainer
        steps = trainer.max_steps if trainer is not None else 1
        return DataLoader([self.pixels] * max(steps, 1), batch_size=None)  # type: ignore[arg-type]

    def test_dataloader(self) -> DataLoader[Tensor]:
        """The image once."""
        return DataLoader([self.pixels], batch_size=None)  # type: ignore[arg-type]


class SgiModule(L.LightningModule):
    """Fits a structured Gaussian image.

    The length of the run is the Trainer's ``max_steps``; the schedule stretches to it. Noise is a pure function of
    seed and step, so that a resumed fit ends like an uninterrupted one.

    Args:
        image: (H, W, 3) in [0, 1].
        num_seeds: Seeds.
        k: Gaussians a seed.
        feat_dim: Numbers of a seed's feature.
        hidden: Neurons between the two layers of the colour and of the shape network; 0: each is a single layer, which
            a short run learns better.
        context_hidden: Neurons between the layers of the entropy model.
        levels: Sizes that are fitted one after another, 1 to 4.
        hash: Size of the entropy model's hash grid.
        density_power: How much closer seeds lie where the image changes. 0: evenly.
        steps: Base quantisation steps of features, scalings and offsets.
        rate_weight: Of a bit per attribute against the picture's error: the knob between quality and size.
        loss: ``psnr``: logarithm of the mean squared error, so that a bit is worth as many dB in every image; ``rmse``:
            half the root of the mean squared error, for which bits are dear where an image is easy; ``l1``: mean
            absolute error, the authors'.
        rate_from: Share of the run after which the rate term is on and steps adapt.
        round_from: Share of the run after which attributes are rounded instead of noisy.
        decay_from: Share of the run after which learning rates fall to zero along a half cosine.
        lr_scale: Factor of the learning rates; default: by the run's length, see `schedule.schedule_scale`.
        seed: Of positions, first weights and noise.
        backend: Rasterizer.
        authors: The authors' behaviour instead of ours: `SgiConfig.authors`, the loss ``l1``, their learning rates,
            steps 1, 1 and 0.2, rate term for the last fifth, no rounding in training, no density map.

    Raises:
        ValueError: Options out of range, or an image that is not (H, W, 3).
    """

    def __init__(
        self,
        image: Tensor,
        num_seeds: int = 600,
        k: int = 5,
        feat_dim: int = 16,
        hidden: int = 0,
        context_hidden: int = 4,
        levels: int = 3,
        hash: HashConfig = HashConfig(),  # noqa: B008 - frozen
        density_power: float = 1.2,
        steps: tuple[float, float, float] = (1.0, 0.2, 0.5),
        rate_weight: float = 1.5e-3,
        loss: Literal["psnr", "rmse", "l1"] = "psnr",
        rate_from: float = 0.2,
        round_from: float = 0.8,
        decay_from: float = 0.8,
        lr_scale: float | None = None,
        seed: int = 0,
        backend: Backend = "auto",
        authors: bool = False,
    ) -> None:
        super().__init__()
        if image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"the image has shape {tuple(image.shape)}; want (height, width, 3)")
        if authors:
            steps, loss, density_power = (1.0, 0.5 ** (levels - 1), 0.2), "l1", 0.0
            hidden = hidden or feat_dim
        if rate_weight < 0:
            raise ValueError(f"rate_weight={rate_weight} must not be negative")
        config = SgiConfig(
            height=image.shape[0],
            width=image.shape[1],
            levels=levels,
            num_seeds=num_seeds,
            k=k,
            feat_dim=feat_dim,
            hidden=hidden,
            context_hidden=context_hidden,
            hash=hash,
            position_seed=seed,
            density=density_of(image, density_power) if density_power else (),
            step_f=steps[0],
            step_s=steps[1],
            step_d=steps[2],
            authors=authors,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.structured = StructuredImage(config)
        self.rasterize = rasterizer(backend)
        self.pyramid = pyramid(image, levels)
        self.rate_weight, self.loss, self.seed, self.authors = rate_weight, loss, seed, authors
        self._shares = rate_from, round_from, decay_from
        self._lr_scale = lr_scale
        self.schedule = self._schedule(1)  # options out of range end here, not when fitting begins

    def _schedule(self, steps: int) -> Schedule:
        levels = self.structured.config.levels
        if self.authors:
            return Schedule.published(steps, levels, self._lr_scale)
        return Schedule(steps, levels, *self._shares, scale=self._lr_scale)

    def setup(self, stage: str) -> None:
        """Learn the length of the run."""
        if stage != "fit":
            return
        if self.trainer.max_steps < 1:
            raise ValueError("how long to fit is unknown: give the Trainer max_steps, such as --trainer.max_steps=2500")
        self.schedule = self._schedule(self.trainer.max_steps)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, one group for each kind of parameter; learning rates are set at every step."""
        model = self.structured
        groups = {
            "feature": [model.feature],
            "log_scale": [model.log_scale],
            "offset": [model.offset],
            "shape_mlp": [*model.shape_mlp.parameters()],
            "color_mlp": [*model.color_mlp.parameters()],
            "context": [*model.context.parameters()],
        }
        # The loss changes with level and noise: a shorter memory of gradients' squares follows it in a short run.
        betas = (0.9, 0.999) if self.authors else (0.9, 0.99)
        named = [{"params": parameters, "name": name} for name, parameters in groups.items()]
        return torch.optim.Adam(named, lr=0.0, betas=betas, eps=1e-15)

    def on_train_batch_start(self, batch: Tensor, batch_idx: int) -> None:
        """Set the learning rates of this step."""
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = self.schedule.lr(group["name"], self.global_step)

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """The loss of this step: error of the picture plus, in the last part of the run, its size."""
        stage = self.schedule.at(self.global_step)
        generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_003 + self.global_step)
        attributes, rate = self._disturbed(stage, generator)
        picture = self.structured.render(attributes, stage.level, self.rasterize)
        target = self.pyramid[stage.level].to(picture.device)
        mse = (picture - target).square().mean().clamp_min(1e-12)
        loss = self._error(picture - target, mse)
        if self.global_step % self._log_every == 0:
            self.log("psnr", -10 * mse.detach().log10(), prog_bar=True)
        if rate is None:
            return loss
        if self.global_step % self._log_every == 0:
            self.log("bpp", rate.total / self.pyramid[0][..., 0].numel(), prog_bar=True)
        return loss + self.rate_weight * rate.per_attribute

    def _error(self, difference: Tensor, mse: Tensor) -> Tensor:
        """How far the picture is from the image, as `loss` measures it."""
        if self.loss == "l1":
            return difference.abs().mean()
        return mse.sqrt() / 2 if self.loss == "rmse" else TYPICAL_RMSE / 4 * mse.log()

    @property
    def _log_every(self) -> int:
        return self.trainer.log_every_n_steps  # type: ignore[attr-defined,no-any-return]

    def _disturbed(self, stage: Stage, generator: torch.Generator) -> tuple[Attributes, Rate | None]:
        """Attributes with the stage's noise, and their size if the stage has a rate term."""
        attributes = self.structured.attributes()
        if stage.noise == "none":
            return attributes, None
        if stage.noise == "base":
            steps = self.structured.config.steps
            if self.authors:
                steps["d"] *= 0.5**stage.level
            parts = [quantise.noisy(x, steps[kind], generator) for kind, x in zip(KINDS, attributes, strict=True)]
            return Attributes(*parts), None
        stats = self.structured.context()
        if stage.noise == "adaptive":
            parts = [quantise.noisy(x, stats[kind].step, generator) for kind, x in zip(KINDS, attributes, strict=True)]
        else:
            parts = [quantise.rounded(x, stats[kind].step) for kind, x in zip(KINDS, attributes, strict=True)]
        return Attributes(*parts), self._rate(Attributes(*parts), stats, generator)

    def _rate(self, attributes: Attributes, stats: dict[str, ContextStats], generator: torch.Generator) -> Rate:
        """Size of attributes and hash grid, the former from a random sample of the seeds."""
        model, n = self.structured, len(attributes.f)
        counted = min(n, max(n // 20, LEAST_RATED_SEEDS))
        seeds = torch.randperm(n, generator=generator, device=self.device)[:counted] if counted < n else slice(None)
        costs = [
            quantise.bits(x[seeds], *(part[seeds] for part in stats[kind]))
            for kind, x in zip(KINDS, attributes, strict=True)
        ]
        bits = torch.cat(costs, 1).sum() * (n / counted) + model.context.grid.cost()
        return Rate(bits / (n * sum(model.config.widths.values())), bits.detach() + model.network_bytes * 8)

    def on_test_epoch_start(self) -> None:
        """Quantise once; chips change only what is made of the attributes."""
        with torch.no_grad():
            self._decoded = self.structured.quantised()

    def test_step(self, batch: Tensor, batch_idx: int) -> None:
        """PSNR of the quantised image."""
        self.log("psnr", psnr(self.structured.render(self._decoded, 0, self.rasterize), batch))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what `load_structured` needs to build the model without the image."""
        checkpoint["sgi_config"] = asdict(self.structured.config)


def psnr(picture: Tensor, image: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of a picture clamped to [0, 1], against an image in [0, 1].

    Example:
        >>> round(psnr(torch.full((2, 2, 3), 0.1), torch.zeros(2, 2, 3)).item(), 3)
        20.0
    """
    return -10 * (picture.clamp(0, 1) - image).square().mean().clamp_min(1e-12).log10()


def load_structured(path: str | Path) -> StructuredImage:
    """The model of a fit's checkpoint.

    Raises:
        ValueError: No checkpoint of this recipe.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such checkpoint; `fit` writes one into its folder")
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping) or "sgi_config" not in checkpoint:
        raise ValueError(f"{path}: not a checkpoint of `sgi.py fit`")
    config = dict(checkpoint["sgi_config"])
    model = StructuredImage(SgiConfig(**{**config, "hash": HashConfig(**config["hash"])}))
    own = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("structured.")}
    model.load_state_dict({name.removeprefix("structured."): value for name, value in own.items()})
    return model
