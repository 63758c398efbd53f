"""Poses and microscopes in cryoDRGN's pickles.

``poses.pkl`` is ``(rotations (n, 3, 3), translations (n, 2))``, translations being parts of the box and minus how far
content was moved; ``ctf.pkl`` is (n, 9): box, pixel size, defocus U and V, angle, kV, Cs, amplitude contrast, phase.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import MrcStack, pixel_size_of

COLUMNS = ("defocus_u", "defocus_v", "angle", "voltage", "cs", "amplitude_contrast", "phase_shift")
"""Of ``ctf.pkl`` behind box and pixel size."""

_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (f"{core}.{name}", what)
        for core in ("numpy.core", "numpy._core")
        for name, what in (
            ("multiarray", "_reconstruct"),
            ("multiarray", "scalar"),
            ("numeric", "_frombuffer"),
        )
    ),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Unpickles numpy arrays in plain containers: a pickle could otherwise run any program."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}; only numpy arrays are read")
        return super().find_class(module.replace("numpy._core", _CORE).replace("numpy.core", _CORE), name)


_CORE = "numpy._core" if hasattr(np, "_core") else "numpy.core"


def load_arrays(path: Path | str) -> Any:
    """Numpy arrays, in tuples and the like, of a pickle.

    Raises:
        ValueError: If the file is missing or damaged, or holds anything else.
    """
    try:
        with Path(path).open("rb") as file:
            return _ArrayUnpickler(file).load()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise ValueError(f"{path}: not a pickle of arrays ({error})") from error


def _numeric(value: Any, path: Path | str, shape: tuple[int | None, ...], what: str) -> torch.Tensor:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {what} should be a numeric array")
    fits = value.ndim == len(shape) and all(want in (None, have) for have, want in zip(value.shape, shape, strict=True))
    if not fits:
        expected = ", ".join("n" if want is None else str(want) for want in shape)
        raise ValueError(f"{path}: {what} has shape {value.shape}; ({expected}) is expected")
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float64))


def read_cryodrgn(
    images: Path | str, poses: Path | str, ctf: Path | str | None = None, pixel_size: float | None = None
) -> Particles:
    """Particles of a stack and cryoDRGN's pickles.

    Args:
        images: An .mrcs file, or a .txt file naming one a line.
        poses: ``poses.pkl``; one of rotations alone means no shifts.
        ctf: ``ctf.pkl``.
        pixel_size: Angstrom; None for the CTF's, else the images' header.

    Raises:
        ValueError: If something is missing or damaged, or counts or boxes differ.
    """
    images = Path(images)
    if images.suffix == ".star":
        raise ValueError(f"{images}: STAR files hold poses too; read this one with source=star")
    if images.suffix == ".txt":
        if not images.is_file():
            raise ValueError(f"{images}: no such file")
        files = [
            images.parent / line.strip() for line in images.read_text(encoding="utf-8").splitlines() if line.strip()
        ]
        stack = MrcStack(files)
    else:
        stack = MrcStack([images])
    held = load_arrays(poses)
    rotations, translations = held if isinstance(held, (tuple, list)) and len(held) == 2 else (held, None)
    matrices = _numeric(rotations, poses, (len(stack), 3, 3), f"rotations for {len(stack)} images")
    shifts = torch.zeros(len(stack), 2)
    if translations is not None:
        parts = _numeric(translations, poses, (len(stack), 2), f"translations for {len(stack)} images")
        if float(parts.abs().max()) > 1:
            raise ValueError(f"{poses}: translations beyond 1; they should be parts of the box (old files use pixels)")
        shifts = -parts * stack.size
    microscope = None
    if ctf is not None:
        table = _numeric(load_arrays(ctf), ctf, (len(stack), 9), f"CTF parameters for {len(stack)} images")
        boxes, pixels = table[:, 0], table[:, 1]
        if float(pixels.max() - pixels.min()) > 1e-4 * float(pixels.max()):
            raise ValueError(f"{ctf}: pixel sizes from {pixels.min():g} to {pixels.max():g}; one is expected")
        if bool((boxes != boxes[0]).any()) or float(boxes[0]) <= 0:
            raise ValueError(f"{ctf}: boxes from {boxes.min():g} to {boxes.max():g} pixels; one is expected")
        # Box and pixel are those before downsampling.
        pixel_size = pixel_size or float(pixels[0]) * float(boxes[0]) / stack.size
        microscope = CTFParameters.of(len(stack), **{name: table[:, 2 + at] for at, name in enumerate(COLUMNS)})
    pixel_size = pixel_size or pixel_size_of(stack.files[0])
    if not pixel_size:
        raise ValueError(f"{images}: its header has no pixel size; give pixel_size")
    return Particles(stack, matrices.float(), shifts.float(), microscope, pixel_size)


def write_poses(path: Path | str, particles: Particles) -> None:
    """Write ``poses.pkl``."""
    held = particles.rotations.numpy(), (-particles.shifts / particles.size).numpy()
    Path(path).write_bytes(pickle.dumps(held))


def write_ctf(path: Path | str, particles: Particles) -> None:
    """Write ``ctf.pkl``.

    Raises:
        ValueError: If the particles have no CTF, or an envelope, which the file has no column for.
    """
    if particles.ctf is None:
        raise ValueError("these particles have no CTF to write")
    if bool(particles.ctf.b_factor.any()):
        raise ValueError("cryoDRGN's CTF file has no column for a B factor, and these particles have one")
    count = len(particles)
    head = [torch.full((count,), float(particles.size)), torch.full((count,), particles.pixel_size)]
    table = torch.stack([*head, *(getattr(particles.ctf, name) for name in COLUMNS)], 1)
    Path(path).write_bytes(pickle.dumps(table.numpy().astype(np.float32)))
