"""From healthy volumes to trained models: resumable, and blind to lesions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from recipes.brain_mri.datamodule import BrainData
from recipes.brain_mri.module import BrainModule
from recipes.brain_mri.residuals import Kind

TrainerOf = Callable[..., L.Trainer]

CONFIG = "config.json"
MODEL, LAST, HISTORY = "model.ckpt", "last.ckpt", "history.csv"
_OF_A_MODEL = ("state_dict", "hyper_parameters", "epoch", "global_step", "pytorch-lightning_version")
"""What `BrainModule.load_from_checkpoint` needs, and which epoch it was."""


class History(Callback):
    """Remembers what was logged in every epoch; in checkpoints, so that a resumed run remembers all of them.

    Attributes:
        rows: One a finished epoch.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the epoch's row."""
        logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **logged})

    def state_dict(self) -> dict[str, Any]:
        """The rows."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The rows."""
        self.rows = list(state_dict["rows"])


def losses_of(loss: Kind, control: Kind | None) -> list[Kind]:
    """What to train with: the loss of the run first, then its control, if that is another.

    Example:
        >>> losses_of("fq", "l1"), losses_of("l1", "l1"), losses_of("fq", None)
        (['fq', 'l1'], ['l1'], ['fq'])
    """
    return [loss] if control in (None, loss) else [loss, control]


def fit(
    module: BrainModule,
    data: BrainData,
    trainer_of: TrainerOf,
    out: Path,
    config: Mapping[str, Any],
    control: Kind | None,
    seed: int = 0,
) -> dict[Kind, list[dict[str, float]]]:
    """Train a model, and the same with another loss; go on where a killed run of the same folder stopped.

    Only healthy volumes are seen: those of training decide on the inversion, healthy validation volumes on the epoch.

    Args:
        module: The untrained module.
        data: The volumes.
        trainer_of: Makes a Trainer from keyword arguments beyond those of the command line.
        out: Folder of the run; receives ``config.json`` and ``LOSS/model.ckpt``, ``LOSS/history.csv`` of each loss.
        config: The run's configuration; a folder of another one is refused.
        control: The other loss; None for no second training.
        seed: Of whatever draws from torch's own generator, the same for both trainings.

    Returns:
        What was logged in every epoch, by loss.

    Raises:
        ValueError: The folder holds a run with another configuration, or the validation data is empty.
    """
    claim(out, config)
    for number, loss in enumerate(losses := losses_of(module.criterion.kind, control)):
        folder = out / loss
        if (folder / MODEL).exists():
            continue
        print(f"training {number + 1} of {len(losses)}: {module.hparams['arch']}, loss {loss}", flush=True)
        L.seed_everything(seed, verbose=False)
        _train(module if number == 0 else twin(module, loss), data, trainer_of, folder)
    return {loss: history(out / loss) for loss in losses}


def twin(module: BrainModule, loss: Kind) -> BrainModule:
    """An untrained module with another loss; everything else, first weights too, is the same."""
    return BrainModule(**{**module.hparams, "loss": loss})


def load(module: BrainModule, folder: Path) -> BrainModule:
    """Give a module the weights and the inversion of a finished training.

    Args:
        module: Of the same architecture.
        folder: ``OUT/LOSS``.

    Raises:
        ValueError: There is no finished training, or its weights do not fit the module.
    """
    path = folder / MODEL
    if not path.exists():
        raise ValueError(f"{path} is not there: run fit with this --out first, to its end")
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit arch={module.hparams['arch']}, size={module.hparams['size']},"
            f" width={module.hparams['width']}: leave the options of the model as they were in fit"
        ) from error
    return module


def history(folder: Path) -> list[dict[str, float]]:
    """What was logged in every epoch of a finished training."""
    with (folder / HISTORY).open(encoding="utf-8", newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def claim(out: Path, config: Mapping[str, Any]) -> None:
    """Make the folder, or see that it belongs to the same configuration.

    Raises:
        ValueError: It belongs to another.
    """
    path = out / CONFIG
    text = json.dumps(config, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{out} holds a run with another configuration (see {path}); choose another --out, or delete it"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV of rows with the same columns, there wholly or not at all."""
    part = path.with_suffix(".part")
    with part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    part.replace(path)


def _train(module: BrainModule, data: BrainData, trainer_of: TrainerOf, folder: Path) -> None:
    saving = ModelCheckpoint(
        folder,
        filename="best",
        monitor="val/loss",
        save_last=True,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )
    remembered, last = History(), folder / LAST
    trainer = trainer_of(callbacks=[remembered, saving])
    trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if not saving.best_model_path or not remembered.rows:
        raise ValueError("no epoch was finished: give more --trainer.max_epochs, and healthy validation volumes")
    write_rows(folder / HISTORY, remembered.rows)
    best = torch.load(saving.best_model_path, map_location="cpu", weights_only=True)
    part = folder / f"{MODEL}.part"
    torch.save({name: best[name] for name in _OF_A_MODEL}, part)
    part.replace(folder / MODEL)
    for path in (Path(saving.best_model_path), last):  # with the optimizer's state, thrice the size
        path.unlink()
