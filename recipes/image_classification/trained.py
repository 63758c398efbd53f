"""A trained network on disk and in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import torch

from recipes.image_classification.classifier import ImageClassifier
from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.settings import Settings, Training


@dataclass
class Trained:
    """A trained network.

    Attributes:
        method: How it was trained.
        module: The network, on the CPU.
        sigma: What it was trained for; None where training does not depend on it.
        about: ``train_seconds`` (CPU), ``epochs``, ``beta`` and so on.
    """

    method: str
    module: ImageClassifier
    sigma: float | None
    about: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it; a kill meanwhile leaves no half file under the final name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        whole = {
            "state_dict": self.module.state_dict(),
            "method": self.method,
            "sigma": self.sigma,
            "about": self.about,
        }
        torch.save(whole, part)
        part.replace(path)

    @classmethod
    def load(cls, path: Path, settings: Settings, data: ImageData) -> Trained:
        """Read what :meth:`save` wrote."""
        whole = torch.load(path, map_location="cpu", weights_only=True)
        module = settings.untrained(data)
        module.load_state_dict(whole["state_dict"])
        return cls(whole["method"], module, whole["sigma"], whole["about"])


def on_device(module: ImageClassifier, training: Training) -> ImageClassifier:
    """The network where it is trained and tested; Lightning leaves it on the CPU after each of its loops."""
    return module.to(trainer_for(training).strategy.root_device)


def fit(module: ImageClassifier, data: ImageData, training: Training, callbacks: list[Any]) -> int:
    """Train, and give back the number of epochs that it took; the network ends on the CPU."""
    trainer = trainer_for(training, callbacks)
    trainer.fit(module, datamodule=data)
    module.cpu()
    return int(trainer.current_epoch)


def trainer_for(training: Training, callbacks: list[Any] | None = None) -> L.Trainer:
    """A Trainer that shows and saves nothing."""
    return L.Trainer(
        max_epochs=training.epochs,
        accelerator=training.accelerator,
        devices=1,
        precision=training.precision,  # type: ignore[arg-type]
        callbacks=callbacks or [],
        check_val_every_n_epoch=max(1, training.epochs // 10),
        num_sanity_val_steps=0,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
