"""Scores a design by training its network under its device's variation and testing it on simulated chips."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

import lightning_cim as cim
from lightning_cim.codesign import Design, Outcome
from lightning_cim.codesign.cost import design_cost
from recipes.hardware_search.devices import variation_of
from recipes.hardware_search.digits import DesignedNetwork, Split, digits, loader

SEARCH_POPULATION, FINAL_POPULATION = 1, 2
"""Populations of chips of one evaluation seed; they have none in common."""
KPP = 5.0
"""Percentile of ``acc_kpp``, in per cent."""


@dataclass(frozen=True)
class DigitsEvaluator:
    """Real training on 8x8 digits.

    The network is trained with ``cim.VariationInjection`` on the design's device and slices. Then crossbars of
    ``xbar`` rows with ADCs of ``adc_bits`` are put around its layers, the ADCs' ranges are set by training images, and
    chips are drawn. Not simulated: one ADC conversion a slice and input bit (the ADC reads the sum over both), and the
    rounding of weights to 8 bits.

    Attributes:
        epochs: Of training, at least 1.
        chips: Of a search's score, at least 2.
        final_chips: Of the final score, at least 2.
        preset: Of the cost model.
        train_images: At most so many; None: all.
        batch_size: Of training.
    """

    epochs: int = 6
    chips: int = 12
    final_chips: int = 100
    preset: str = "neurosim22"
    train_images: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("chips", 2), ("final_chips", 2), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"DigitsEvaluator: {name} must be at least {least}, got {getattr(self, name)}")

    @property
    def version(self) -> str:
        """All that a score depends on."""
        images = "all" if self.train_images is None else self.train_images
        training = f"{self.epochs} epochs of {images} images in batches of {self.batch_size}"
        return f"digits-1/{self.preset}/{training}/{self.chips} chips/torch {torch.__version__}"

    def cost(self, design: Design) -> dict[str, float]:
        """Energy, latency and area."""
        found = design_cost(design, "digits", self.preset)
        return {name: float(getattr(found, name)) for name in ("energy_pj", "latency_ns", "area_mm2")}

    def evaluate(self, design: Design, seed: int) -> Outcome:
        """Accuracy over chips on validation data, and :meth:`cost`."""
        splits = digits()
        model, trainer = self._trained(design, seed)
        accuracies = self._on_chips(
            model, trainer, design, splits.val, self.chips, _population(seed, SEARCH_POPULATION)
        )
        return Outcome({**accuracies, **self.cost(design)})

    def final(self, design: Design, seed: int) -> dict[str, float]:
        """Accuracy of the same network over other chips on test data, and :meth:`cost`."""
        splits = digits()
        model, trainer = self._trained(design, seed)
        population = _population(seed, FINAL_POPULATION)
        return {
            **self._on_chips(model, trainer, design, splits.test, self.final_chips, population),
            **self.cost(design),
        }

    def _trained(self, design: Design, seed: int) -> tuple[DesignedNetwork, L.Trainer]:
        x, y = digits().train
        split = (x[: self.train_images], y[: self.train_images])
        injection = cim.VariationInjection(variation_of(design), seed=seed)  # its import sets levels of loggers
        with torch.random.fork_rng(devices=[]), _quiet():
            torch.manual_seed(seed)
            model = DesignedNetwork(design, self.epochs * math.ceil(len(split[0]) / self.batch_size))
            trainer = _trainer(self.epochs, [injection])
            trainer.fit(model, loader(split, self.batch_size, shuffle=True))
            return model, _trainer(1, [])

    def _on_chips(
        self, model: DesignedNetwork, trainer: L.Trainer, design: Design, split: Split, chips: int, population: int
    ) -> dict[str, float]:
        circuit = cim.Circuit(rows=int(design["xbar"]), cols=int(design["xbar"]), adc_bits=int(design["adc_bits"]))
        model.eval()
        with cim.on_crossbar(model, circuit), _quiet():
            with torch.no_grad():
                model(digits().train[0][:256])  # the first data set the ranges of the converters
            found = cim.evaluate_chips(
                trainer,
                model,
                loader(split),
                variation=variation_of(design),
                chips=chips,
                seed=population,
                k=KPP,
                progress=False,
            )
        return {"acc_mean": found.mean("acc"), "acc_std": found.std("acc"), "acc_kpp": found.kpp("acc", k=KPP).value}


def _population(seed: int, stream: int) -> int:
    return 1000 * seed + stream


def _trainer(epochs: int, callbacks: list[Any]) -> L.Trainer:
    return L.Trainer(
        max_epochs=epochs,
        callbacks=callbacks,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's banners and its advice on workers, and without that on few chips."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for advice in ("does not have many workers", "LeafSpec", "chips are few", "smaller than the logging interval"):
            warnings.filterwarnings("ignore", f".*{advice}.*")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
