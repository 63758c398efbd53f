"""The trainings of the recipe: dense, then compressed with and without device variation, each resumable."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.typing import NDArray

import lightning_cim as cim
from recipes.arrhythmia.datamodule import ECGData, in_order
from recipes.arrhythmia.metrics import choose_threshold
from recipes.arrhythmia.model import ECGClassifier
from recipes.arrhythmia.windows import Windows

TrainerOf = Callable[..., L.Trainer]


@dataclass(frozen=True)
class Compression:
    """How a network is compressed.

    Attributes:
        bits: Weight bits by layer.
        dense: Layers that are not pruned.
    """

    bits: dict[str, int]
    dense: tuple[str, ...]

    def callbacks(self, pattern: str) -> list[Any]:
        """Sparsity and quantisation, in their order in the chain."""
        return [
            cim.StructuredSparsity(pattern, mapping=cim.Mapping(exclude=self.dense)),
            cim.MixedPrecision(self.bits, activation_bits=8),
        ]


COMPRESSIONS = {
    "chipnet": Compression({"net.conv1": 8, "net.conv[234]": 4, "net.fc": 8}, ("net.conv1", "net.fc")),
    "iegmnet": Compression(
        {"net.features.0": 8, "net.features.*": 4, "net.head.1": 4, "net.head.3": 8}, ("net.features.0", "net.head.3")
    ),
}
"""8/4/4/4-bit convolutions (and 8-bit classifier), 50 % sparsity but in the first and the last layer."""


@dataclass
class Trained:
    """A trained network with what simulates its hardware.

    Attributes:
        name: For tables and files.
        module: The network; its threshold was chosen on validation patients.
        hardware: Callbacks that belong to the deployed network.
        trainer_of: Makes Trainers as the command line asked for.
    """

    name: str
    module: ECGClassifier
    trainer_of: TrainerOf
    hardware: list[Any] = field(default_factory=list)

    def silent_trainer(self) -> L.Trainer:
        """A Trainer with this network's hardware that shows and saves nothing."""
        return self.trainer_of(
            callbacks=list(self.hardware),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )

    def probability(self, windows: Windows) -> NDArray[np.float64]:
        """VA probability of each window, (N,)."""
        batches = self.silent_trainer().predict(self.module, in_order(windows, 512))
        assert batches is not None
        return torch.cat(batches).double().numpy()  # type: ignore[arg-type]

    def decision(self, windows: Windows) -> NDArray[np.bool_]:
        """Whether each window is called VA, (N,)."""
        return self.probability(windows) >= self.module.threshold

    def set_threshold(self, data: ECGData) -> None:
        """Choose the threshold on the validation patients."""
        validation = data.windows("val")
        self.module.threshold = choose_threshold(validation.y, self.probability(validation))


def train(
    name: str,
    start: ECGClassifier,
    data: ECGData,
    trainer_of: TrainerOf,
    out: Path,
    epochs: int,
    lr: float | None = None,
    hardware: list[Any] | None = None,
    extra: list[Any] | None = None,
) -> Trained:
    """Train one network, or take up where a killed run left off.

    The finished network is ``out/NAME.ckpt``; while training, ``out/NAME/last.ckpt`` follows each epoch.

    Args:
        name: For files and tables.
        start: Where training starts; it is copied.
        data: The data.
        trainer_of: Makes a Trainer from keyword arguments.
        out: The run's folder.
        epochs: How many.
        lr: Another learning rate than the start's.
        hardware: Callbacks that belong to the deployed network.
        extra: Callbacks of this training only.
    """
    module = copy.deepcopy(start)
    if lr is not None:
        module.hparams["lr"] = lr
    trained = Trained(name, module, trainer_of, hardware or [])
    done, last = out / f"{name}.ckpt", out / name / "last.ckpt"
    if done.exists():
        _restore(trained, done)
        return trained
    trainer = trainer_of(
        max_epochs=epochs,
        enable_model_summary=False,
        callbacks=[*trained.hardware, *(extra or []), ModelCheckpoint(last.parent, save_last=True, save_top_k=0)],
        logger=[L.pytorch.loggers.CSVLogger(out / "logs", name=name, version="")],
    )
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    trained.set_threshold(data)
    states = {callback.state_key: callback.state_dict() for callback in trained.hardware}
    part = done.with_suffix(".part")  # a kill while writing must not leave half a file under the final name
    torch.save({"state_dict": module.state_dict(), "callbacks": states}, part)
    part.rename(done)
    return trained


def _restore(trained: Trained, path: Path) -> None:
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    trained.module.load_state_dict(checkpoint["state_dict"])
    for callback in trained.hardware:
        callback.load_state_dict(checkpoint["callbacks"][callback.state_key])
