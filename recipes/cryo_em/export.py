"""A data set as files that RELION, cryoSPARC and cryoDRGN read."""

from __future__ import annotations

from pathlib import Path

from recipes.cryo_em.cryodrgn_files import write_ctf, write_poses
from recipes.cryo_em.cryosparc import write_cryosparc
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.relion import write_relion
from recipes.cryo_em.stack import write_mrcs

STACK = "particles.mrcs"
STAR = "particles.star"
POSES = "poses.pkl"
CTF = "ctf.pkl"


def export(particles: Particles, folder: Path | str, version: str = "3.1") -> dict[str, Path]:
    """Write a data set.

    Images are written bright on dark, as RELION and cryoSPARC extract them and cryoDRGN expects them: with the opposite
    sign of what `Particles` holds.

    Args:
        particles: What to write; its images need not fit into memory.
        folder: Receives ``particles.mrcs``, ``particles.star``, ``particles.cs``, ``poses.pkl`` and, where the
            particles have a CTF, ``ctf.pkl``.
        version: Of the STAR file, "3.0" or "3.1".

    Returns:
        The files written, by name.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_mrcs(folder / STACK, particles.images, particles.pixel_size, factor=-1.0)
    write_relion(folder / STAR, particles, STACK, version)
    write_cryosparc(folder / "particles.cs", particles, STACK)
    write_poses(folder / POSES, particles)
    names = [STACK, STAR, "particles.cs", POSES]
    if particles.ctf is not None:
        write_ctf(folder / CTF, particles)
        names.append(CTF)
    return {name: folder / name for name in names}
