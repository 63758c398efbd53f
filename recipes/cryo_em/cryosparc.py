"""Particles in cryoSPARC's .cs files: numpy structured arrays, one row a particle.

The rotation vector of ``alignments3D/pose`` is of the inverse of ``R``; ``alignments3D/shift`` is minus how far content
was moved, in pixels of ``alignments3D/psize_A``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recipes._arrays import load_npy
from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.geometry import matrix_from_vector, vector_from_matrix
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.relion import find_images
from recipes.cryo_em.stack import MrcStack

Rows = np.ndarray[Any, Any]

CTF = {
    "defocus_u": ("ctf/df1_A", 1.0),
    "defocus_v": ("ctf/df2_A", 1.0),
    "angle": ("ctf/df_angle_rad", 180 / np.pi),
    "voltage": ("ctf/accel_kv", 1.0),
    "cs": ("ctf/cs_mm", 1.0),
    "amplitude_contrast": ("ctf/amp_contrast", 1.0),
    "phase_shift": ("ctf/phase_shift_rad", 180 / np.pi),
    "b_factor": ("ctf/bfactor", 1.0),
}
"""Field and the factor that brings it to `CTFParameters`' unit."""
OPTIONAL = ("phase_shift", "b_factor")
ABERRATIONS = ("ctf/tilt_A", "ctf/trefoil_A", "ctf/tetra_A", "ctf/anisomag", "ctf/shift_A")


def read_cryosparc(
    path: Path | str,
    datadir: Path | str | None = None,
    passthrough: Path | str | None = None,
    ignore_aberrations: bool = False,
) -> Particles:
    """Particles of a .cs file.

    Args:
        path: The file, of a job that gave particles a 3D alignment.
        datadir: The project's folder, where paths begin. None tries the file's folder, its parents, the working folder.
        passthrough: A second file of the same particles, for fields the first lacks; joined by ``uid``.
        ignore_aberrations: Read data with beam tilt, higher aberrations or anisotropic magnification as if without.

    Raises:
        ValueError: If something needed is missing or damaged, or the data is of a kind that would be misread.
    """
    path = Path(path)
    rows = _load(path)
    fields = {name: rows[name] for name in rows.dtype.names or ()}
    if passthrough is not None:
        fields = _joined(_load(Path(passthrough)), Path(passthrough), fields, path) | fields
    for name in ("blob/path", "blob/idx", "blob/psize_A"):
        if name not in fields:
            raise ValueError(f"{path}: no field {name}; give its passthrough file too")
    if "alignments3D/pose" not in fields:
        raise ValueError(f"{path}: no field alignments3D/pose; particles need poses, from a 3D refinement")
    wrong = [name for name in ABERRATIONS if name in fields and bool(np.any(fields[name]))]
    if wrong and not ignore_aberrations:
        raise ValueError(f"{path}: {wrong[0]} asks for a correction that is not made here; see ignore_aberrations")
    stack = _images(fields, path, None if datadir is None else Path(datadir))
    pixels = _floats(fields, "blob/psize_A", path)
    if float(pixels.max() - pixels.min()) > 1e-4 * float(pixels.max()):
        raise ValueError(f"{path}: pixel sizes from {pixels.min():g} to {pixels.max():g}; one is expected")
    pixel_size = float(pixels[0])
    shifts = torch.zeros(len(stack), 2, dtype=torch.float64)
    if "alignments3D/shift" in fields:
        unit = _floats(fields, "alignments3D/psize_A", path) if "alignments3D/psize_A" in fields else pixels
        shifts = -_floats(fields, "alignments3D/shift", path) * (unit / pixel_size)[:, None]
    half = None
    if "alignments3D/split" in fields:
        half = torch.from_numpy(fields["alignments3D/split"].astype(np.int64)) + 1
    return Particles(
        images=stack,
        rotations=matrix_from_vector(_floats(fields, "alignments3D/pose", path)).mT.float(),
        shifts=shifts.float(),
        ctf=_ctf(fields, path, len(stack)),
        pixel_size=pixel_size,
        half=half,
    )


def _load(path: Path) -> Rows:
    try:
        rows = load_npy(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable .cs file: {error}") from error
    if not rows.dtype.names or rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"{path}: not a .cs file of particles: no rows with named fields")
    return rows


def _joined(more: Rows, source: Path, fields: dict[str, Rows], path: Path) -> dict[str, Rows]:
    if "uid" not in fields or "uid" not in (more.dtype.names or ()):
        raise ValueError(f"{path} and {source} cannot be joined: one lacks the field uid")
    place = {uid: row for row, uid in enumerate(more["uid"].tolist())}
    missing = [uid for uid in fields["uid"].tolist() if uid not in place]
    if missing:
        raise ValueError(f"{source}: lacks {len(missing)} particles of {path}, uid {missing[0]} first")
    order = [place[uid] for uid in fields["uid"].tolist()]
    return {name: more[name][order] for name in more.dtype.names or ()}


def _floats(fields: dict[str, Rows], name: str, path: Path) -> Tensor:
    if name not in fields:
        raise ValueError(f"{path}: no field {name}")
    values = torch.from_numpy(fields[name].astype(np.float64))
    wrong = ~torch.isfinite(values).reshape(len(values), -1).all(1)
    if bool(wrong.any()):
        raise ValueError(f"{path}: {name} of row {int(wrong.nonzero()[0])} (from 0) is not finite")
    return values


def _images(fields: dict[str, Rows], path: Path, datadir: Path | None) -> MrcStack:
    # A leading ">" marks paths of exported jobs.
    words = [bytes(word).decode(errors="replace").lstrip(">") for word in fields["blob/path"].tolist()]
    names = list(dict.fromkeys(words))
    number = {name: at for at, name in enumerate(names)}
    files = [find_images(name, path, datadir) for name in names]
    return MrcStack(
        files, torch.tensor([number[word] for word in words]), torch.from_numpy(fields["blob/idx"].astype(np.int64))
    )


def _ctf(fields: dict[str, Rows], path: Path, count: int) -> CTFParameters | None:
    if "ctf/df1_A" not in fields:
        return None
    wanted = {name: where for name, where in CTF.items() if name not in OPTIONAL or where[0] in fields}
    return CTFParameters.of(count, **{name: _floats(fields, label, path) * by for name, (label, by) in wanted.items()})


def write_cryosparc(path: Path | str, particles: Particles, images: str) -> None:
    """Write particles whose images lie in one file, in order, as a .cs file.

    Args:
        path: To write.
        particles: Their poses and microscopes.
        images: What the file calls the .mrcs file.
    """
    count, name = len(particles), images.encode()
    columns: dict[str, Rows] = {
        "uid": np.arange(1, count + 1, dtype=np.uint64),
        "blob/path": np.full(count, name, dtype=f"S{len(name)}"),
        "blob/idx": np.arange(count, dtype=np.uint32),
        "blob/shape": np.full((count, 2), particles.size, dtype=np.uint32),
        "blob/psize_A": np.full(count, particles.pixel_size, dtype=np.float32),
        "alignments3D/pose": vector_from_matrix(particles.rotations.mT.double()).float().numpy(),
        "alignments3D/shift": (-particles.shifts).numpy(),
        "alignments3D/psize_A": np.full(count, particles.pixel_size, dtype=np.float32),
    }
    if particles.ctf is not None:
        columns |= {label: (getattr(particles.ctf, field) / by).numpy() for field, (label, by) in CTF.items()}
    if particles.half is not None:
        columns["alignments3D/split"] = (particles.half - 1).numpy().astype(np.uint32)
    kinds = [(label, column.dtype, column.shape[1:]) for label, column in columns.items()]
    rows = np.empty(count, dtype=kinds)
    for label, column in columns.items():
        rows[label] = column
    with Path(path).open("wb") as file:
        np.save(file, rows)
