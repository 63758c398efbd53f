"""What `recipes/cryoformer.py` does with data alone: simulate it, write it for other programs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from recipes.cryo_em.cache import TRUTH, write_truth
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.export import export

Found = dict[str, Any]


def simulate(words: Sequence[str], main: Callable[[list[str]], Any]) -> Found:
    """``simulate --out=FOLDER [--data.*]``: simulated particles as files, with their truth."""
    return _write("simulate", "Simulate particles and write them for other programs.", words)


def export_data(words: Sequence[str], main: Callable[[list[str]], Any]) -> Found:
    """``export --data.source=star --data.path=... --out=FOLDER``: particles of any source as files of every kind."""
    return _write("export", "Write particles of any source as .mrcs, .star, .cs and cryoDRGN's pickles.", words)


def _write(name: str, about: str, words: Sequence[str]) -> Found:
    parser = ArgumentParser(prog=f"python recipes/cryoformer.py {name}", description=about, exit_on_error=True)
    parser.add_class_arguments(CryoData, "data")
    parser.add_argument("--out", type=str, required=True, help="Folder to write to; must be new or empty.")
    parser.add_argument("--star_version", type=str, default="3.1", help="3.0 or 3.1.")
    options = parser.parse_args(list(words))
    folder = Path(options.out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is not an empty folder; nothing is overwritten")
    data = CryoData(**vars(options.data))
    if name == "simulate" and not data.is_simulated:
        raise ValueError(f"simulate needs source sim or beads, not {data.source}; files are rewritten by export")
    particles = data.particles
    files = export(particles, folder, options.star_version)
    if particles.truth is not None:
        write_truth(folder / TRUTH, particles)
        files[TRUTH] = folder / TRUTH
    for file in files.values():
        print(file)
    return {"count": len(particles), "size": particles.size, "pixel_size": particles.pixel_size, "files": files}


COMMANDS: dict[str, Callable[[Sequence[str], Callable[[list[str]], Any]], Found]] = {
    "simulate": simulate,
    "export": export_data,
}
"""By subcommand."""
