"""A fit from image to checkpoint, resumable, with the quality of what a decoder will see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from recipes.gaussian_image.context import KINDS
from recipes.gaussian_image.module import ImageData, SgiModule, psnr
from recipes.gaussian_image.quantise import symbol_bits

SAVE_EVERY = 250
"""Steps between checkpoints; each replaces the one before."""

TrainerOf = Callable[..., L.Trainer]


def fit(module: SgiModule, data: ImageData, trainer_of: TrainerOf, out: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Fit, or go on fitting where a killed run of the same folder stopped.

    Args:
        module: The untrained module.
        data: The image.
        trainer_of: Makes a Trainer from keyword arguments beyond those of the command line.
        out: Folder of the run; receives ``last.ckpt``, ``config.json``, ``metrics.json`` and ``logs``.
        config: The run's configuration; a folder of another one is refused.

    Returns:
        What `decoded` measured.

    Raises:
        ValueError: The folder holds a run with another configuration.
    """
    claim(out, config)
    last = out / "last.ckpt"
    saving = ModelCheckpoint(out, save_last=True, save_top_k=0, every_n_train_steps=SAVE_EVERY)
    trainer = trainer_of(callbacks=[saving], logger=[CSVLogger(out, name="logs", version="")])
    with one_torch_thread():
        trainer.fit(module, datamodule=data, ckpt_path=str(last) if last.exists() else None)
    trainer.save_checkpoint(last)
    found = decoded(module, data)
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Let torch's own operations use one thread; a rasterizer that has threads keeps them.

    They are many and tiny: on a busy machine two threads waiting for each other made a fit ten times slower. It also
    makes the result independent of the number of cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@torch.no_grad()
def decoded(module: SgiModule, data: ImageData) -> dict[str, Any]:
    """PSNR of the image as a decoder will see it, and what an ideal coder needs for it.

    Networks are rounded to half precision and attributes quantised. A real file is some 100 bytes larger for sizes and
    checksums, and smaller where its networks can be deflated.

    Returns:
        psnr in dB; bpp in bits per pixel; bytes by part.
    """
    stored = module.structured.as_stored()
    stats = stored.context.coding_stats()
    symbols = stored.symbols(stats)
    picture = stored.render(stored.quantised(), 0, module.rasterize)
    parts = {kind: symbol_bits(symbols[kind], stats[kind]) / 8 for kind in KINDS}
    parts |= {"hash grid": float(stored.context.grid.cost()) / 8, "networks": float(stored.network_bytes)}
    return {
        "psnr": psnr(picture, data.pixels.to(picture.device)).item(),
        "bpp": 8 * sum(parts.values()) / (stored.config.height * stored.config.width),
        "bytes": {name: round(size) for name, size in parts.items()},
    }


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
