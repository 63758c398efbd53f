"""One training step of the CryoFormer recipe against the literal ray formulation: time, memory, images per second.

python benchmarks/cryo.py [--size 32] [--queries 8] [--rounds 3] [--batch 16] [--literal_batch 1]

Ours decodes the voxels of the support and spreads them over the image; the literal formulation decodes the points of
every pixel's ray through the rotated sphere, from a hash grid and the trilinear base map. Both run encoder, decoder,
projection, CTF, loss, gradients and Adam in one thread. Times are CPU time per image, contestants take turns; memory is
what the resident set peaks at beyond the process's start, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from _measure import interleave
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.loss import ImageLoss
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.projector import Projector, ray_points, trilinear
from recipes.cryo_em.support import distances, radius_of
from recipes.cryo_em.volumes import HashVolume

BAR = 10.0
SUPPORT = 0.3
"""Radius of the support, of the box: about what the mask of a particle that fills half of it leaves."""
OURS, HASH, LITERAL = "voxels, table", "voxels, hash grid", "rays, hash grid"


def step_of(name: str, size: int, queries: int, batch: int) -> Callable[[], Tensor]:
    """One training step of a contestant on random images."""
    torch.manual_seed(0)
    model = CryoFormer(size, 3.0, queries=queries, volume="table" if name == OURS else "hash")
    model.set_support(distances(size) < SUPPORT * size)
    project, loss = Projector(size), ImageLoss(size)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, size, size, generator=generator)
    rotations, ctf = random_rotations(batch, generator), torch.rand(batch, size, size // 2 + 1, generator=generator)
    seen = {"image": images, "rotation": rotations, "shift": torch.zeros(batch, 2), "ctf": ctf}
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    inside = (distances(size) <= radius_of(size)).flatten()

    def along_rays() -> Tensor:
        queries = model.decoder(model.encode(seen))
        points = ray_points(size, rotations).flatten(1, 3)[:, inside]
        volume = model.volume
        assert isinstance(volume, HashVolume)
        values = trilinear(model.base, points) + model.head(queries, volume.at(points))
        grid = values.new_zeros(batch, size**3)
        grid[:, inside] = values
        return torch.fft.rfft2(grid.view(batch, size, size, size).sum(1))  # type: ignore[no-any-return]

    def on_voxels() -> Tensor:
        return project(model.densities(model.encode(seen)), model.positions, rotations)  # type: ignore[no-any-return]

    def step() -> Tensor:
        optimizer.zero_grad()
        error = loss((along_rays() if name == LITERAL else on_voxels()) * ctf, images)
        error.backward()
        optimizer.step()
        return error.detach()  # type: ignore[no-any-return]

    return step


def peak_mib(name: str, options: argparse.Namespace, batch: int) -> float:
    """How far one step raises the resident set of a process of its own."""
    words = [f"--size={options.size}", f"--queries={options.queries}", f"--batch={batch}", f"--memory={name}"]
    here = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True, env=here)
    return float(json.loads(done.stdout.splitlines()[-1]))


def resident_mib(field: str) -> float:
    """The resident set of this process now, ``VmRSS``, or at its largest, ``VmHWM``; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--queries", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--literal_batch", type=int, default=1, help="Of the literal formulation: it needs the memory.")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        step = step_of(options.memory, options.size, options.queries, options.batch)
        before = resident_mib("VmRSS")
        step()
        print(resident_mib("VmHWM") - before)
        return
    batches = {OURS: options.batch, HASH: options.batch, LITERAL: options.literal_batch}
    steps: dict[str, Callable[[], object]] = {
        name: step_of(name, options.size, options.queries, batch) for name, batch in batches.items()
    }
    best = {name: min(times) / batches[name] for name, times in interleave(steps, options.rounds).items()}
    points = int((distances(options.size) < SUPPORT * options.size).sum())
    print(f"D = {options.size}, N = {options.queries}, {points} voxels in the support, one thread, least of all rounds")
    print(f"{'':20}{'batch':>7}{'CPU ms/image':>14}{'images/s':>10}{'literal / it':>14}{'peak MiB':>10}")
    for name, seconds in best.items():
        memory = peak_mib(name, options, batches[name])
        ratio = best[LITERAL] / seconds
        print(f"{name:20}{batches[name]:7}{1e3 * seconds:14.2f}{1 / seconds:10.1f}{ratio:14.1f}{memory:10.0f}")
    print(f"bar: ours at least {BAR:g} times faster: {'kept' if best[LITERAL] / best[OURS] >= BAR else 'MISSED'}")


if __name__ == "__main__":
    main()
