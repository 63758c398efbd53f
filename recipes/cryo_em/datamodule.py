"""One data module for every source of particles: simulations and the files of the field's programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor

from recipes.cryo_em.batches import InOrder, Shuffled
from recipes.cryo_em.cache import cached, trajectory_of
from recipes.cryo_em.contrast import warn_of_contrast
from recipes.cryo_em.cryodrgn_files import read_cryodrgn
from recipes.cryo_em.cryosparc import read_cryosparc
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.poses import Pose, misplaced
from recipes.cryo_em.relion import read_relion
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import STRUCTURES

Source = Literal["sim", "beads", "star", "cryodrgn", "cs"]

COUNT, SIZE, PIXEL_SIZE = 5000, 32, 3.0
"""Of a simulation, unless said otherwise."""
SIMULATED_ONLY = {"snr": 0.1, "shift": 0.0, "frames": "all", "pose_errors": (0.0, 0.0)}
FILES_ONLY = {
    "path": None,
    "datadir": None,
    "poses": None,
    "ctf": None,
    "passthrough": None,
    "invert": True,
    "ignore_aberrations": False,
}
"""Options of one kind of source, with their defaults."""


class CryoData(L.LightningDataModule):
    """Particle images with poses and microscopes.

    Batches are dicts, see `batches.batch_of`; images are standardised over the set, and dark where density is positive.

    Args:
        source: ``"sim"`` simulates adenylate kinase from closed to open, ``"beads"`` a hinge of beads (needs no other
            package); ``"star"`` reads a RELION file, ``"cs"`` a cryoSPARC file, ``"cryodrgn"`` a stack and pickles.
        path: The .star, .cs or .mrcs file.
        datadir: Where image paths inside ``path`` begin; None tries the file's folder and its parents.
        poses: cryoDRGN's ``poses.pkl``.
        ctf: cryoDRGN's ``ctf.pkl``.
        passthrough: A second .cs file of the same particles.
        count: Images: 5,000 simulated; of files, None means all and a number that many, evenly spaced.
        size: Pixels D of an edge: 32 simulated; images of files are downsampled to it, None leaves them as they are.
        pixel_size: Angstrom: 3 simulated; of cryoDRGN's files, what else is read from them.
        snr: Simulated: variance of the signal over that of the noise.
        shift: Simulated: contents are moved by up to this along x and y [pixels].
        pose_errors: Simulated: poses are given wrong by so many degrees, about any axis, and pixels, in any direction.
        frames: Simulated: ``"one"`` is a particle that does not move, a negative control.
        invert: Of files: particles are bright on dark, as RELION and cryoSPARC extract them. False for dark ones.
        ignore_aberrations: Of .star and .cs files: read data with beam tilt or such as if it had none.
        holdout: Part of the images kept from training, in [0, 1).
        half: Use only half 1 or 2: those the file names, else every other image.
        batch_size: Images a batch.
        seed: Of simulation, hold-out and order.
        cache: Folder of simulated sets, each made once; None to keep images in memory.
        progress: Show a bar while images are simulated.

    Raises:
        ValueError: If an option is missing, out of range, or of another source.
    """

    def __init__(
        self,
        source: Source = "sim",
        path: str | None = None,
        datadir: str | None = None,
        poses: str | None = None,
        ctf: str | None = None,
        passthrough: str | None = None,
        count: int | None = None,
        size: int | None = None,
        pixel_size: float | None = None,
        snr: float = 0.1,
        shift: float = 0.0,
        pose_errors: tuple[float, float] = (0.0, 0.0),
        frames: Literal["all", "one"] = "all",
        invert: bool = True,
        ignore_aberrations: bool = False,
        holdout: float = 0.0,
        half: int | None = None,
        batch_size: int = 16,
        seed: int = 0,
        cache: str | None = "runs/cache",
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.source, self.path, self.datadir, self.passthrough = source, path, datadir, passthrough
        self.poses, self.ctf, self.invert, self.ignore_aberrations = poses, ctf, invert, ignore_aberrations
        self.count, self._size, self._pixel_size = count, size, pixel_size
        self.snr, self.shift, self.frames = snr, shift, frames
        self.pose_errors = (pose_errors[0], pose_errors[1])
        self.holdout, self.half, self.batch_size, self.seed = holdout, half, batch_size, seed
        self.cache, self.progress = cache, progress
        self._particles: Particles | None = None
        self._check()

    def _check(self) -> None:
        if self.is_simulated:
            foreign = self._changed(FILES_ONLY)
            if foreign:
                raise ValueError(f"{foreign[0]} is for files; source={self.source} is simulated")
            _ = self.simulation  # raises what is out of range
        else:
            if self.source not in ("star", "cryodrgn", "cs"):
                raise ValueError(f"source={self.source}: one of sim, beads, star, cryodrgn, cs is expected")
            if self.path is None:
                raise ValueError(f"source={self.source} needs a path")
            foreign = self._changed(SIMULATED_ONLY)
            if foreign:
                raise ValueError(f"{foreign[0]} is for simulations; source={self.source} reads files")
            if (self.source == "cryodrgn") != (self.poses is not None) or (self.ctf and self.source != "cryodrgn"):
                raise ValueError("source=cryodrgn needs poses and takes ctf; the other sources take neither")
            if self.passthrough and self.source != "cs":
                raise ValueError(f"passthrough is for source=cs; the source is {self.source}")
            if self._pixel_size is not None and self.source != "cryodrgn":
                raise ValueError(f"pixel_size is read from the file of source={self.source}; leave it out")
        if not all(0 <= error < float("inf") for error in self.pose_errors):
            raise ValueError(f"pose_errors={self.pose_errors}: degrees and pixels are expected, neither negative")
        if self.frames not in ("all", "one"):
            raise ValueError(f"frames={self.frames}: all or one is expected")
        if not 0 <= self.holdout < 1:
            raise ValueError(f"holdout={self.holdout}: a part in [0, 1) is expected")
        if self.half not in (None, 1, 2):
            raise ValueError(f"half={self.half}: 1 or 2 is expected")
        if self.batch_size < 1 or (self.count is not None and self.count < 1):
            raise ValueError("batch_size and count must be at least 1")

    def _changed(self, defaults: Mapping[str, object]) -> list[str]:
        return [name for name, default in defaults.items() if getattr(self, name) != default]

    @property
    def is_simulated(self) -> bool:
        """Whether the truth is known."""
        return self.source in STRUCTURES

    @property
    def simulation(self) -> Simulation:
        """What a simulated source makes."""
        return Simulation(
            count=self.count or COUNT,
            size=SIZE if self._size is None else self._size,
            pixel_size=PIXEL_SIZE if self._pixel_size is None else self._pixel_size,
            snr=self.snr,
            shift=self.shift,
            seed=self.seed,
        )

    @property
    def particles(self) -> Particles:
        """All particles of the source, or of its half, with standardised images; read or made when first asked for."""
        if self._particles is None:
            self._particles = self._load()
        return self._particles

    @property
    def size(self) -> int:
        """Pixels D of an image's edge."""
        return self.particles.size

    @property
    def pixel_size(self) -> float:
        """In Angstrom."""
        return self.particles.pixel_size

    def _load(self) -> Particles:
        particles = self._simulated() if self.is_simulated else self._downsampled(self._of_files())
        if self.half is not None:
            halves = particles.half if particles.half is not None else torch.arange(len(particles)) % 2 + 1
            rows = (halves == self.half).nonzero()[:, 0]
            if len(rows) == 0:
                raise ValueError(f"half={self.half}: the file puts no particle into it")
            particles = particles.subset(rows)
        self.true_poses = Pose(particles.rotations, particles.shifts)
        degrees, pixels = self.pose_errors
        if degrees or pixels:
            wrong = misplaced(self.true_poses, degrees, pixels, self.seed)
            particles = replace(particles, rotations=wrong.rotation, shifts=wrong.shift)
        invert = self.invert and not self.is_simulated
        particles = replace(particles, images=particles.images.standardised(invert))
        if not self.is_simulated:
            warn_of_contrast(particles.images)
        return particles

    def _simulated(self) -> Particles:
        if self.cache is None:
            return simulate(trajectory_of(self.source, self.frames), self.simulation, self.progress)
        return cached(self.source, self.frames, self.simulation, self.cache, self.progress)

    def _of_files(self) -> Particles:
        path = Path(str(self.path))
        read: dict[str, Callable[[], Particles]] = {
            "star": lambda: read_relion(path, self.datadir, self.ignore_aberrations),
            "cs": lambda: read_cryosparc(path, self.datadir, self.passthrough, self.ignore_aberrations),
            "cryodrgn": lambda: read_cryodrgn(path, str(self.poses), self.ctf, self._pixel_size),
        }
        particles = read[self.source]()
        if self.count is None:
            return particles
        if self.count > len(particles):
            raise ValueError(f"{path}: count={self.count} images were asked for; there are {len(particles)}")
        places = torch.arange(self.count, dtype=torch.float64) * (len(particles) / self.count)
        return particles.subset(places.floor().long())

    def _downsampled(self, particles: Particles) -> Particles:
        if self._size is None or self._size == particles.size:
            return particles
        factor = particles.size / self._size
        return replace(
            particles,
            images=particles.images.downsampled(self._size),
            shifts=particles.shifts / factor,
            pixel_size=particles.pixel_size * factor,
        )

    @property
    def train_rows(self) -> Tensor:
        """Rows of `particles` to train on, ascending."""
        return self._split()[0]

    @property
    def held_out_rows(self) -> Tensor:
        """Rows of `particles` kept from training, ascending; perhaps none."""
        return self._split()[1]

    def _split(self) -> tuple[Tensor, Tensor]:
        count = len(self.particles)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        kept = round(self.holdout * count)
        if kept >= count:
            raise ValueError(f"holdout={self.holdout} leaves none of {count} images to train on")
        return order[kept:].sort().values, order[:kept].sort().values

    @property
    def train(self) -> Particles:
        """The particles to train on."""
        return self.particles.subset(self.train_rows)

    @property
    def held_out(self) -> Particles | None:
        """Those kept from training, if any."""
        return self.particles.subset(self.held_out_rows) if len(self.held_out_rows) else None

    def setup(self, stage: str | None = None) -> None:
        """Read or make the particles, so that what is wrong with them is said before training."""
        _ = self.particles

    def _place(self) -> tuple[int | None, int, int]:
        trainer = self.trainer
        return (None, 0, 1) if trainer is None else (trainer.current_epoch, trainer.global_rank, trainer.world_size)

    def train_dataloader(self) -> Any:
        """Shuffled batches, resumable."""
        return Shuffled(self.particles, self.train_rows, self.batch_size, self.seed, self._place)

    def val_dataloader(self) -> Any:
        """Held-out batches in order; none without a hold-out."""
        return InOrder(self.particles, self.held_out_rows, self.batch_size) if self.holdout else []

    def predict_dataloader(self) -> Any:
        """All particles in order."""
        return InOrder(self.particles, torch.arange(len(self.particles)), self.batch_size)
