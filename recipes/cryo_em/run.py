"""A fit from particles to checkpoint, resumable."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from recipes.cryo_em.batches import InOrder
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.module import CryoModule

SAVE_EVERY = 250
"""Steps between checkpoints; each replaces the one before."""
CONSENSUS_BATCH = 256
"""Images that the consensus phase reads at once."""

TrainerOf = Callable[..., L.Trainer]


def fit(
    module: CryoModule,
    data: CryoData,
    trainer_of: TrainerOf,
    out: Path,
    config: dict[str, Any],
    progress: bool = True,
) -> dict[str, float]:
    """Fit, or go on fitting where a killed run of the same folder stopped.

    Args:
        module: The untrained module.
        data: The particles.
        trainer_of: Makes a Trainer from keyword arguments beyond those of the command line.
        out: Folder of the run; receives ``last.ckpt``, ``config.json`` and ``logs``.
        config: The run's configuration; a folder of another one is refused.
        progress: Whether to show a bar of the first phase.

    Returns:
        CPU seconds of this process by phase: ``consensus`` with the mask, and ``joint``; of a run that was resumed,
        the part since then.

    Raises:
        ValueError: The folder holds a run with another configuration, or the options do not fit the particles.
    """
    claim(out, config)
    last = out / "last.ckpt"
    seconds = {"consensus": 0.0, "joint": 0.0}
    with one_torch_thread():
        if not last.exists():
            begin = time.process_time()
            batches = InOrder(data.particles, data.train_rows, CONSENSUS_BATCH)
            module.prepare(batches, progress)
            seconds["consensus"] = time.process_time() - begin
        begin = time.process_time()
        saving = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=SAVE_EVERY)
        trainer = trainer_of(callbacks=[saving], logger=[CSVLogger(out, name="logs", version="")])
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
        seconds["joint"] = time.process_time() - begin
    if trainer.interrupted:
        raise KeyboardInterrupt  # neither is the fit finished nor should it look so
    trainer.save_checkpoint(last)
    return seconds


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch's operations use one thread: two were slower on a busy machine, and results depend on no core count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def claim(out: Path, config: dict[str, Any]) -> None:
    """Make the folder, or see that it belongs to the same configuration.

    Raises:
        ValueError: It belongs to another.
    """
    path = out / "config.json"
    text = json.dumps(config, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{out} holds a run with another configuration (see {path}); choose another --out, or delete it"
        )
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
