"""cryoDRGN beside a fit: the same images, the same states, the same mask, the same scores.

cryoDRGN is a program of its own (GPL-3.0), which the user installs and runs elsewhere; nothing of it is imported. A
folder holds what is passed between: our export, its latents ``z.N.pkl``, our list of latents to decode, its maps.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes.cryo_em.cryodrgn_files import load_arrays
from recipes.cryo_em.evaluate import Options, aligned
from recipes.cryo_em.export import CTF, POSES, STACK, export
from recipes.cryo_em.judge import Judge
from recipes.cryo_em.maps import read_map
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.scores import StateScores, spearman
from recipes.cryo_em.states import bin_middles, label_states, principal_components, traversal

TRAINED = "cryodrgn"
"""Folder of ``cryodrgn train_vae`` within the comparison's."""
KINDS = ("states", "single", "traversal")
"""Ways of choosing latents, as in `evaluate`; each is a text file of latents and a folder of maps."""


@dataclass(frozen=True)
class Step:
    """What a comparison has come to.

    Attributes:
        done: What was written or read.
        commands: For the user to run next, in cryoDRGN's environment; none when there are scores.
        scores: As ``metrics.json`` holds them.
    """

    done: str
    commands: tuple[str, ...] = ()
    scores: Mapping[str, Any] | None = None


def advance(folder: Path, particles: Particles, mask: Tensor, options: Options, zdim: int = 8, epochs: int = 8) -> Step:
    """Do the next step: export, choose latents, or score.

    Args:
        folder: Of the comparison.
        particles: Simulated; those our model was fitted to.
        mask: (D, D, D), on the reconstructed maps; our model's support.
        options: As for our model.
        zdim: In the command that trains.
        epochs: In the command that trains.

    Raises:
        ValueError: Particles without truth, or files that do not fit them.
    """
    if particles.labels is None or particles.truth is None:
        raise ValueError("a comparison is scored against the truth: these particles were not simulated")
    if not (folder / STACK).is_file():
        files = export(particles, folder)
        return Step(f"wrote {', '.join(files)} to {folder}", (train_command(folder, particles, zdim, epochs),))
    try:
        z_file = latents_file(folder / TRAINED)
    except ValueError:
        return Step(f"{folder} holds the images", (train_command(folder, particles, zdim, epochs),))
    latents = read_latents(z_file, len(particles))
    if not all((folder / kind).is_dir() for kind in KINDS):
        write_latents(folder, latents, particles.labels, options)
        weights = z_file.with_name(z_file.name.replace("z", "weights", 1))
        return Step(f"wrote latents of {z_file}", decode_commands(folder, weights, particles.pixel_size))
    return Step(f"read {z_file} and maps", scores=score(folder, latents, particles, mask, options))


def train_command(folder: Path, particles: Particles, zdim: int = 8, epochs: int = 8) -> str:
    """``cryodrgn train_vae`` on the exported images; small networks, as images are small."""
    ctf = f" --ctf {folder / CTF}" if particles.ctf is not None else ""
    return (
        f"cryodrgn train_vae {folder / STACK} --poses {folder / POSES}{ctf} --zdim {zdim} -n {epochs} --lr 5e-4"
        f" --enc-dim 128 --enc-layers 3 --dec-dim 128 --dec-layers 3 --no-amp --seed 0 -o {folder / TRAINED}"
    )


def decode_commands(folder: Path, weights: Path, pixel_size: float) -> tuple[str, ...]:
    """``cryodrgn eval_vol`` for every kind of states."""
    return tuple(
        f"cryodrgn eval_vol {weights} -c {folder / TRAINED / 'config.yaml'} --zfile {folder / kind}.txt"
        f" --Apix {pixel_size:g} -o {folder / kind}"
        for kind in KINDS
    )


def latents_file(path: Path) -> Path:
    """The latents of the last epoch in cryoDRGN's output folder, or the file itself.

    Raises:
        ValueError: There is none.
    """
    if path.is_file():
        return path
    numbered = {
        int(match[1]): file for file in path.glob("z.*.pkl") if (match := re.fullmatch(r"z\.(\d+)\.pkl", file.name))
    }
    if numbered:
        return numbered[max(numbered)]
    if (path / "z.pkl").is_file():
        return path / "z.pkl"
    raise ValueError(f"{path} holds no z.N.pkl: is it the -o of `cryodrgn train_vae`, and is an epoch done?")


def read_latents(path: Path, count: int) -> Tensor:
    """Latent means of all images, float32 (n, z).

    Args:
        path: ``z.N.pkl``, which holds means and then log variances; only arrays are unpickled.
        count: Images that were exported.

    Raises:
        ValueError: No such file, another number of images, or values that are not finite.
    """
    means = np.asarray(load_arrays(path))
    if means.ndim != 2 or len(means) != count or not np.isfinite(means).all():
        raise ValueError(f"{path}: want finite latents ({count}, z) of the exported images, got shape {means.shape}")
    return torch.from_numpy(means.astype(np.float32))


def write_latents(folder: Path, latents: Tensor, labels: Tensor, options: Options) -> None:
    """Write the latents of the same states that our model is scored on, one text file a kind."""
    components = aligned(principal_components(latents), labels)
    chosen = {
        "states": label_states(latents, labels, options.states, options.nearest),
        "single": label_states(latents, labels, options.states, 1),
        "traversal": traversal(latents, components, options.states, 0, options.nearest),
    }
    for kind, states in chosen.items():
        np.savetxt(folder / f"{kind}.txt", states.latents.numpy())


def read_volumes(folder: Path, count: int, size: int, pixel_size: float) -> Tensor:
    """Maps that ``cryodrgn eval_vol`` wrote, (count, D, D, D), in the order of their numbers.

    Raises:
        ValueError: Another number of maps, another box or another voxel size.
    """
    files = sorted(folder.glob("*.mrc"))
    if len(files) != count:
        raise ValueError(f"{folder} holds {len(files)} maps, want {count}: did `cryodrgn eval_vol` finish?")
    volumes = []
    for file in files:
        volume, found = read_map(file)
        if volume.shape[0] != size:
            raise ValueError(f"{file}: a box of {volume.shape[0]}, but the images have {size} pixels")
        if abs(found - pixel_size) > 0.01 * pixel_size:
            raise ValueError(
                f"{file}: voxels of {found:g} Angstrom, want {pixel_size:g}: give eval_vol --Apix {pixel_size:g}"
            )
        volumes.append(volume)
    return torch.stack(volumes)


def score(folder: Path, latents: Tensor, particles: Particles, mask: Tensor, options: Options) -> dict[str, Any]:
    """Scores of decoded maps, as `evaluate` gives them for our model.

    Maps of inverted contrast, by their correlation with the true mean, are turned; ``turned`` says so.

    Args:
        folder: With a folder of maps for each of `KINDS`.
        latents: (n, z), of all images.
        particles: With their truth.
        mask: The same as for our model.
        options: The same as for our model.
    """
    assert particles.labels is not None
    labels = particles.labels.double()
    components = aligned(principal_components(latents), labels)
    judges = dict.fromkeys(("states", "single"), Judge.of(particles, mask, options.states))
    judges["traversal"] = Judge.of(particles, mask, torch.quantile(labels, bin_middles(options.states)))
    found: dict[str, Any] = {"particles": len(particles), "spearman": spearman(components.scores[:, 0], labels)}
    for kind, judge in judges.items():
        volumes = read_volumes(folder / kind, options.states, particles.size, particles.pixel_size)
        scores, found["turned"] = score_signed(volumes, judge)
        found[kind] = scores.numbers()
    return found


def score_signed(volumes: Tensor, judge: Judge) -> tuple[StateScores, bool]:
    """Scores of maps, turned where their contrast is inverted, and whether it was."""
    within = judge.mask > 0
    ours, true = volumes.mean(0)[within], judge.volumes.mean(0)[within]
    turned = float(((ours - ours.mean()) * (true - true.mean())).sum()) < 0
    return judge.score(-volumes if turned else volumes), turned
