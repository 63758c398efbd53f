"""The rasterizers of sums of Gaussians side by side: time, scaling, peak memory.

python benchmarks/rasterizer.py [--rounds 12] [--threads 2] [--skip scaling memory]

One number of a table is a forward and a backward pass of an image with three channels; Gaussians lie at random, their
axes lognormal (0.4) around half the mean distance of two. Contestants take turns round by round. CPU time counts all
threads and does not see what else the machine does; wall time does, so on a busy machine read the first.

gsplat has no rasterizer for a CPU. What stands for it is ``accumulate`` of its torch implementation, on a list of all
(Gaussian, pixel) pairs above the cut that is made beforehand and not counted (on CUDA a kernel makes it). It composites
through nerfacc, which is CUDA too; here a plain sum stands in for nerfacc, which is less work.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from _measure import ratios
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))
from recipes.gaussian_image.rasterizers import Rasterizer, rasterizer, torch_tiles
from recipes.gaussian_image.rasterizers.binning import bin_by_torch
from recipes.gaussian_image.rasterizers.gaussians import CUT

BAR = 5.0
SIZES = [(10_000, 512), (40_000, 1024), (100_000, 2048)]
GSPLAT = "gsplat's torch accumulate"


def field(count: int, size: int, seed: int = 0) -> list[Tensor]:
    """Means, conics and colours, each a leaf with a gradient, and the image's gradient."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.rand(count, 2, generator=draw) * size
    sigma = 0.5 * size / math.sqrt(count) * torch.exp(0.4 * torch.randn(count, 2, generator=draw))
    angle = torch.rand(count, generator=draw) * math.pi
    (a, b), cos, sin = (sigma**-2).unbind(1), angle.cos(), angle.sin()
    conics = torch.stack([a * cos**2 + b * sin**2, (a - b) * cos * sin, a * sin**2 + b * cos**2], dim=1)
    leaves = [means, conics, torch.randn(count, 3, generator=draw)]
    return [*(leaf.requires_grad_() for leaf in leaves), torch.randn(size, size, 3, generator=draw)]


def backends() -> dict[str, Rasterizer]:
    """What draws any picture."""
    return {
        "numba": rasterizer("numba"),
        "torch": rasterizer("torch"),
        "torch, tiles of 16": partial(torch_tiles.rasterize, tile=16),
    }


def gsplat_accumulate(means: Tensor, conics: Tensor) -> Callable[..., Rasterizer] | None:
    """gsplat's torch path for the pairs of these Gaussians, None where gsplat is not installed.

    Only the file of its torch implementation is loaded, so that gsplat tries to compile nothing.
    """
    found = importlib.util.find_spec("gsplat")
    path = Path(found.origin).parent / "cuda" / "_torch_impl.py" if found and found.origin else None
    if path is None or not path.exists():
        return None
    spec = importlib.util.spec_from_file_location("gsplat_torch_implementation", path)
    assert spec is not None
    assert spec.loader is not None
    gsplat = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gsplat)
    nerfacc: Any = ModuleType("nerfacc")
    nerfacc.render_weight_from_alpha = lambda alphas, ray_indices, n_rays: (alphas, None)
    nerfacc.accumulate_along_rays = _sum_along_rays
    sys.modules["nerfacc"] = nerfacc

    def draw(means: Tensor, conics: Tensor, colors: Tensor, height: int, width: int, pairs: tuple[Tensor, ...]) -> Any:
        ones = torch.ones(1, means.shape[0])
        return gsplat.accumulate(means[None], conics[None], ones, colors[None], *pairs, width, height)[0][0]

    return draw


def _sum_along_rays(weights: Tensor, values: Tensor | None, ray_indices: Tensor, n_rays: int) -> Tensor:
    """The sum of weights, or of weighted values, by ray."""
    terms = weights[:, None] if values is None else weights[:, None] * values
    return terms.new_zeros(n_rays, terms.shape[1]).index_add(0, ray_indices, terms)


@torch.no_grad()
def pairs_above_cut(means: Tensor, conics: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gaussian, pixel and image of every pair with a weight of at least 1/255."""
    listed = bin_by_torch(means, conics, size, size, 1)
    pixel, gaussian = listed.tile_of_pair(), listed.ids
    dx = pixel % size + 0.5 - means[gaussian, 0]
    dy = pixel // size + 0.5 - means[gaussian, 1]
    q11, q12, q22 = conics[gaussian].unbind(1)
    keep = 0.5 * (q11 * dx * dx + q22 * dy * dy) + q12 * dx * dy <= CUT
    return gaussian[keep], pixel[keep], torch.zeros_like(pixel[keep])


def race(contestants: dict[str, Rasterizer], case: list[Tensor], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds by clock ("CPU" or "wall") and contestant, and of CPU time by "forward" and "backward" apart."""
    *leaves, upstream = case
    size = upstream.shape[0]
    times: dict[str, dict[str, list[float]]] = {
        clock: {name: [] for name in contestants} for clock in ("CPU", "wall", "forward", "backward")
    }
    for turn in range(rounds + 1):
        for name, draw in contestants.items():
            wall, begin = time.perf_counter(), time.process_time()
            image = draw(*leaves, size, size)
            middle = time.process_time()
            image.backward(upstream)
            end = time.process_time()
            for leaf in leaves:
                leaf.grad = None
            if turn == 0:  # compiles, and warms the caches
                continue
            times["CPU"][name].append(end - begin)
            times["wall"][name].append(time.perf_counter() - wall)
            times["forward"][name].append(middle - begin)
            times["backward"][name].append(end - middle)
    return times


def show(title: str, times: dict[str, dict[str, list[float]]]) -> None:
    """Milliseconds, and how many times numba's they are."""
    cpu = "CPU ms, least (forward + backward)"
    print(f"\n{title}\n{'':28}{cpu:>38}{'wall ms, least':>16}{'CPU / numba':>22}{'wall / numba':>22}")
    of_cpu, of_wall = ratios(times["CPU"], "numba"), ratios(times["wall"], "numba")
    for name in times["CPU"]:
        cpu, forward, backward, wall = (1e3 * min(times[c][name]) for c in ("CPU", "forward", "backward", "wall"))
        text = f"{cpu:.1f} ({forward:.1f} + {backward:.1f})"
        columns = "".join(f"{least:9.2f}x (med {median:5.2f})" for least, median in (of_cpu[name], of_wall[name]))
        print(f"{name:28}{text:>38}{wall:16.1f}{columns}")


def compare(rounds: int) -> None:
    count, size = SIZES[0]
    case = field(count, size)
    contestants = backends()
    with torch.no_grad():
        expected = contestants["numba"](*case[:3], size, size)
    accumulate = gsplat_accumulate(*case[:2])
    if accumulate is None:
        print(f"{GSPLAT}: n/a, gsplat is not installed")
    else:
        pairs = pairs_above_cut(case[0], case[1], size)
        contestants[GSPLAT] = partial(accumulate, pairs=pairs)
        print(f"{len(pairs[0])} pairs of a Gaussian and a pixel")
    for name, draw in contestants.items():
        with torch.no_grad():
            off = (draw(*case[:3], size, size) - expected).abs().max().item()
        print(f"largest difference from numba's image: {off:.1e} ({name})")
    times = race(contestants, case, rounds)
    show(f"{count} Gaussians at {size} x {size}, {rounds} rounds", times)
    for clock in ("CPU", "wall"):
        tiles = {name: sample for name, sample in times[clock].items() if name.startswith("torch")}
        best = min(tiles, key=lambda name: statistics.median(tiles[name]))
        least, median = ratios({best: tiles[best], "numba": times[clock]["numba"]}, "numba")[best]
        verdict = "kept" if min(least, median) >= BAR else "MISSED"
        print(
            f"bar: {clock} time at least {BAR:g}x below the faster torch tiles: {least:.2f}x ({median:.2f}x) {verdict}"
        )


def scaling(rounds: int) -> None:
    for count, size in SIZES[1:]:
        contestants = {name: draw for name, draw in backends().items() if name in ("numba", "torch")}
        show(f"{count} Gaussians at {size} x {size}, {rounds} rounds", race(contestants, field(count, size), rounds))


def peak(name: str, count: int, size: int) -> None:
    """Print what a forward and a backward pass add to the peak of this process, in MiB."""
    draw = backends()[name]
    race({name: draw}, field(10, 16), 0)
    case = field(count, size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    race({name: draw}, case, 0)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([(after - before) / 1024, after / 1024]))


def memory(threads: int) -> None:
    print(f"\npeak memory, MiB: what one forward and backward pass add{'':6}whole process")
    for count, size in (SIZES[0], SIZES[-1]):
        for name in ("numba", "torch"):
            command = [sys.executable, __file__, "--threads", str(threads), "--peak", name, str(count), str(size)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            added, whole = json.loads(done.stdout.splitlines()[-1])
            print(f"{f'{name}, {count} at {size} x {size}':44}{added:12.0f}{whole:19.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--skip", nargs="*", default=[], choices=["memory", "compare", "scaling"])
    parser.add_argument("--peak", nargs=3, metavar=("BACKEND", "COUNT", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.peak[0], int(options.peak[1]), int(options.peak[2]))
        return
    print(
        f"torch {torch.__version__}, {options.threads} threads, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    )
    # First, because a child's peak starts at what its parent holds.
    if "memory" not in options.skip:
        memory(options.threads)
    if "compare" not in options.skip:
        compare(options.rounds)
    if "scaling" not in options.skip:
        scaling(max(2, options.rounds // 4))


if __name__ == "__main__":
    main()
