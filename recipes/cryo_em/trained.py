"""A fit's folder, opened again."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.module import load_model
from recipes.cryo_em.own_frame import errors_in_own_frame
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.pose_bound import pose_bound
from recipes.cryo_em.poses import GivenPoses, Pose, angle_between, found_poses

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


def as_fitted(model: CryoFormer, data: CryoData) -> tuple[Particles, dict[str, float] | None]:
    """The particles of a fit in the poses it found, and how far off poses were and are.

    Args:
        model: Fitted.
        data: What it was fitted to.

    Returns:
        The particles to train on, and, where poses were not taken as given and the true ones are known, root mean
        square angles [degree] and distances [pixel] from those: ``angle_given``, ``angle``, ``shift_given``, ``shift``;
        ``angle_own_frame`` and ``shift_own_frame`` leave out what is a rigid motion with the conformation. For images
        with errors and noise also the least that can be left, ``angle_bound`` and ``shift_bound``.
    """
    everything, rows = data.particles, data.train_rows
    if isinstance(model.poses, GivenPoses):
        return data.train, None
    given = Pose(everything.rotations, everything.shifts)
    found = found_poses(model.poses, everything.images, given)
    held = replace(everything, rotations=found.rotation, shifts=found.shift).subset(rows)
    if not data.is_simulated:
        return held, None
    true, errors = data.true_poses, {}
    for name, pose in (("_given", given), ("", found)):
        errors[f"angle{name}"] = float(angle_between(pose.rotation, true.rotation)[rows].square().mean().sqrt())
        errors[f"shift{name}"] = float((pose.shift - true.shift)[rows].square().sum(1).mean().sqrt())
    if everything.labels is not None:
        own = errors_in_own_frame(
            Pose(found.rotation[rows], found.shift[rows]),
            Pose(true.rotation[rows], true.shift[rows]),
            everything.labels[rows],
        )
        errors["angle_own_frame"], errors["shift_own_frame"] = own
    if all(error > 0 for error in data.pose_errors) and data.snr < math.inf:
        rightly = replace(everything, rotations=true.rotation, shifts=true.shift).subset(rows)
        errors["angle_bound"], errors["shift_bound"] = pose_bound(rightly, data.snr, *data.pose_errors)
    return held, errors


def describe(data: CryoData) -> str:
    """What the particles are, in words."""
    size = f"{data.size} x {data.size} pixels of {data.pixel_size:g} Å"
    if not data.is_simulated:
        return f"{data.path}, {size}"
    what = {"sim": "adenylate kinase, closed to open", "beads": "a hinge of beads"}.get(data.source, data.source)
    still = ", one conformation" if data.frames == "one" else ""
    return f"{what}{still}, {size}, signal-to-noise ratio {data.snr:g}"
