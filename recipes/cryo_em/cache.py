"""Simulated data sets, made once: a folder by settings that is itself a data set RELION and cryoDRGN read."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from recipes._arrays import load_npz
from recipes.cryo_em.export import STAR, export
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.relion import read_relion
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import STRUCTURES, Trajectory
from recipes.cryo_em.truth import Truth

VERSION = 1
"""To be raised with every change of what a simulation makes."""
TRUTH = "truth.npz"
SETTINGS = "settings.json"


def write_truth(path: Path | str, particles: Particles) -> None:
    """Write the labels and the truth of simulated particles.

    Raises:
        ValueError: If they are not simulated.
    """
    truth = particles.truth
    if truth is None or particles.labels is None:
        raise ValueError("these particles have no truth to write")
    np.savez(
        path,
        labels=particles.labels.numpy(),
        positions=truth.trajectory.positions.numpy(),
        weights=truth.trajectory.weights.numpy(),
        sigma=np.float64(truth.sigma),
    )


def with_truth(path: Path | str, particles: Particles) -> Particles:
    """Particles with the truth `write_truth` wrote of them.

    Raises:
        ValueError: If the file is missing or damaged, or of other particles.
    """
    try:
        held = load_npz(path)
        labels, positions, weights = (torch.from_numpy(held[name]) for name in ("labels", "positions", "weights"))
        sigma = float(held["sigma"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable file of a simulation's truth ({error})") from error
    truth = Truth(Trajectory(positions, weights), particles.size, particles.pixel_size, sigma)
    return replace(particles, labels=labels, truth=truth)


def trajectory_of(source: str, frames: str) -> Trajectory:
    """The path of a simulated source, whole ("all") or its first frame alone ("one")."""
    path = STRUCTURES[source]()
    return path.only_first() if frames == "one" else path


def cached(source: str, frames: str, settings: Simulation, root: Path | str, progress: bool = False) -> Particles:
    """Simulated particles, from the cache or made now and put there; their images stay on the disk.

    Args:
        source: A name of `structures.STRUCTURES`.
        frames: "all" or "one".
        settings: What is simulated.
        root: Folder of all cached sets. A set is deleted by deleting its folder.
        progress: Show a bar while images are made.
    """
    about = {"source": source, "frames": frames, **asdict(settings), "version": VERSION}
    text = json.dumps(about, indent=1)
    folder = Path(root) / f"{source}-{settings.size}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if not (folder / SETTINGS).is_file():
        particles = simulate(trajectory_of(source, frames), settings, progress)
        Path(root).mkdir(parents=True, exist_ok=True)
        # Made aside and moved at once: neither a kill nor another process leaves half a set.
        aside = Path(tempfile.mkdtemp(prefix=".making-", dir=root))
        try:
            export(particles, aside)
            write_truth(aside / TRUTH, particles)
            (aside / SETTINGS).write_text(text, encoding="utf-8")
            aside.replace(folder)
        except OSError:
            if not (folder / SETTINGS).is_file():
                raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    held = read_relion(folder / STAR)
    return with_truth(folder / TRUTH, replace(held, images=held.images.inverted()))
