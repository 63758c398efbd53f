"""A fit's folder, opened again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.module import load_model

CHECKPOINT = "last.ckpt"
CONFIG = "config.json"


@dataclass(frozen=True)
class Trained:
    """A fitted model, and the particles it was fitted to.

    Attributes:
        folder: Of the fit.
        config: Its ``config.json``.
        model: In evaluation mode, on the CPU.
        data: Its particles, split as then.
    """

    folder: Path
    config: dict[str, Any]
    model: CryoFormer
    data: CryoData


def load_run(folder: Path) -> Trained:
    """Open the folder of a fit.

    Raises:
        ValueError: The folder holds no finished fit.
    """
    for name in (CONFIG, CHECKPOINT):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not the folder of a fit (no {name}): give the --out of `cryoformer.py fit`")
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    model, data = load_model(folder / CHECKPOINT), CryoData(**config["data"])
    if data.size != model.size:
        raise ValueError(
            f"{folder}: images of {data.size} pixels, but a model of {model.size}; have the files changed?"
        )
    return Trained(folder, config, model, data)


def describe(data: CryoData) -> str:
    """What the particles are, in words."""
    size = f"{data.size} x {data.size} pixels of {data.pixel_size:g} Å"
    if not data.is_simulated:
        return f"{data.path}, {size}"
    what = {"sim": "adenylate kinase, closed to open", "beads": "a hinge of beads"}.get(data.source, data.source)
    still = ", one conformation" if data.frames == "one" else ""
    return f"{what}{still}, {size}, signal-to-noise ratio {data.snr:g}"
