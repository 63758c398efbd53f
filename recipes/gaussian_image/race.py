"""SGI and its rivals at equal bytes and at equal time: fits of several sizes and lengths, resumable."""

from __future__ import annotations

import json
import math
import re
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recipes._side_by_side import side_by_side
from recipes.gaussian_image import classical, images
from recipes.gaussian_image.contestants import CONTESTANTS, Task, alone
from recipes.gaussian_image.metrics import quality

Row = dict[str, Any]
"""One file of one image; see `run_job` and `classical_rows` for its keys."""


@dataclass(frozen=True)
class Job:
    """One fit.

    Attributes:
        image: A name or a file; see `images.load`.
        method: One of `CONTESTANTS`.
        bpp: Bits a pixel that the file may have, about.
        steps: Of the fit.
        seed: Of first positions and noise.
        options: Of this contestant.
    """

    image: str
    method: str
    bpp: float
    steps: int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For files."""
        words = f"{Path(self.image).stem} {self.method} {self.bpp:g}bpp {self.steps}steps seed{self.seed}"
        return f"{re.sub(r'[^A-Za-z0-9.]+', '-', words)}-{zlib.crc32(self._key().encode()):08x}"

    def _key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    def found(self, out: Path) -> Row | None:
        """What an earlier run measured."""
        path = out / "jobs" / f"{self.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def jobs_of(
    names: Sequence[str],
    methods: Sequence[str],
    bpps: Sequence[float],
    steps: Sequence[int],
    seeds: Sequence[int] = (0,),
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Job]:
    """Every fit of a race, shortest first.

    Args:
        names: Images, by name or path; their stems must differ.
        methods: Of `CONTESTANTS`.
        bpps: Wanted bits a pixel.
        steps: Lengths of fits; several make curves against time.
        seeds: Of first positions and noise.
        options: Of contestants, by method.

    Raises:
        ValueError: Nothing to do, doubles, unknown methods, or numbers that are not positive.
    """
    options = options or {}
    for what, values in (("images", names), ("methods", methods), ("bpps", bpps), ("steps", steps), ("seeds", seeds)):
        keys = [Path(name).stem for name in names] if what == "images" else list(values)
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"{what} must be one or several different ones, got {list(values)}")
    unknown = [name for name in (*methods, *options) if name not in CONTESTANTS]
    if unknown:
        raise ValueError(f"no method {unknown[0]!r}: take some of {', '.join(CONTESTANTS)}")
    if min(bpps) <= 0 or min(steps) < 1:
        raise ValueError(f"bpps and steps must be positive, got {list(bpps)} and {list(steps)}")
    return [
        Job(name, method, bpp, length, seed, dict(options.get(method, {})))
        for seed in seeds
        for length in sorted(steps)
        for name in names
        for bpp in sorted(bpps)
        for method in methods
    ]


def race(
    todo: Sequence[Job], out: Path, processes: int = 1, codecs: Sequence[str] = tuple(classical.CODECS)
) -> list[Row]:
    """Run fits and classical codecs; a killed race given the same folder goes on with what is missing.

    Args:
        todo: See `jobs_of`.
        out: Folder of the race: `jobs/NAME.json` for each fit, `classical/NAME.json` for each image, `rows.json`.
        processes: Side by side, one thread each. CPU seconds compare only between equal numbers of processes.
        codecs: Classical ones, of `classical.CODECS`.

    Returns:
        Rows of fits in the order of the jobs, then those of classical codecs.

    Raises:
        ValueError: An image that cannot be read, or no process.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    names = list(dict.fromkeys(job.image for job in todo))
    for name in names:
        images.load(name)
    found = dict(_run_all(todo, out, processes))
    rows = [found[job.name] for job in todo]
    for name in names:
        rows += classical_rows(name, out, codecs)
    _write_whole(out / "rows.json", json.dumps(rows, indent=1))
    return rows


def run_job(job: Job, out: Path) -> Row:
    """Fit, write, decode and measure, on one thread; `out/jobs/NAME.json` and the file itself are left behind.

    Returns:
        `kind` "fit"; `image`, `height`, `width`, `method`, `steps`, `seed`, `options`, wanted `target_bpp`;
        `gaussians`; `file_bytes`, `bpp`; `psnr`, `ssim`, `ms_ssim`, `note`; `fit_seconds`, `encode_seconds`,
        `decode_seconds` of CPU time.
    """
    with alone():
        image = images.load(job.image)
        entry = CONTESTANTS[job.method](Task(image, job.bpp, job.steps, job.seed, job.options))
        close = quality(entry.picture, image)
    height, width = image.shape[:2]
    row = {
        "kind": "fit",
        "image": Path(job.image).stem,
        "height": height,
        "width": width,
        "method": job.method,
        "target_bpp": job.bpp,
        "steps": job.steps,
        "seed": job.seed,
        "options": dict(job.options),
        "gaussians": entry.gaussians,
        "file_bytes": len(entry.data),
        "bpp": 8 * len(entry.data) / (height * width),
        **close._asdict(),
        "fit_seconds": entry.fit_seconds,
        "encode_seconds": entry.encode_seconds,
        "decode_seconds": entry.decode_seconds,
    }
    folder = out / "jobs"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{job.name}.bin").write_bytes(entry.data)
    _write_whole(folder / f"{job.name}.json", json.dumps(row, indent=1))
    return row


def classical_rows(name: str, out: Path, codecs: Sequence[str] = tuple(classical.CODECS)) -> list[Row]:
    """Classical codecs on one image, measured once a folder.

    Returns:
        `kind` "classical"; keys as of `run_job`, with `setting` instead of those of fits. A codec that was skipped has
        `kind` "skipped", `image`, `method` and `note`.
    """
    stem = Path(name).stem
    path = out / "classical" / f"{stem}-{zlib.crc32(json.dumps([name, *codecs]).encode()):08x}.json"
    if path.exists():
        kept: list[Row] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    image = images.load(name)
    height, width = image.shape[:2]
    rows: list[Row] = []
    with alone():
        for point in classical.measure(image, codecs):
            if isinstance(point, classical.Skipped):
                rows.append({"kind": "skipped", "image": stem, "method": point.codec, "note": point.reason})
                continue
            measured = {key: value for key, value in asdict(point).items() if key not in ("codec", "quality")}
            about = {"kind": "classical", "image": stem, "height": height, "width": width, "method": point.codec}
            rows.append({**about, **measured, **point.quality._asdict()})
    _write_whole(path, json.dumps(rows, indent=1))
    return rows


Curve = list[tuple[float, float]]
"""Pairs of x and PSNR in dB, x ascending."""


def rate_curves(rows: Sequence[Row], steps: int | None = None) -> dict[str, dict[str, Curve]]:
    """PSNR against real bits a pixel, by image and method: what a rate-distortion plot draws.

    Args:
        rows: Of a race.
        steps: Length of the fits to take; None: the longest of each method. Classical codecs are always taken.
    """
    longest = _longest(rows)
    curves: dict[str, dict[str, Curve]] = {}
    for row in rows:
        if row["kind"] == "skipped":
            continue
        if row["kind"] == "fit" and row["steps"] != (steps or longest[row["method"]]):
            continue
        curves.setdefault(row["image"], {}).setdefault(row["method"], []).append((row["bpp"], row["psnr"]))
    return {image: {name: sorted(curve) for name, curve in part.items()} for image, part in curves.items()}


def time_curves(rows: Sequence[Row], target_bpp: float) -> dict[str, dict[str, Curve]]:
    """PSNR against CPU seconds of fitting at one wanted size, by image and method."""
    curves: dict[str, dict[str, Curve]] = {}
    for row in rows:
        if row["kind"] == "fit" and row["target_bpp"] == target_bpp:
            curves.setdefault(row["image"], {}).setdefault(row["method"], []).append((row["fit_seconds"], row["psnr"]))
    return {image: {name: sorted(curve) for name, curve in part.items()} for image, part in curves.items()}


def mean_gap(one: Sequence[tuple[float, float]], other: Sequence[tuple[float, float]]) -> float | None:
    """By how much dB one curve lies above another, on average over the logarithm of the x that both cover.

    Bjøntegaard's measure with straight lines between the points instead of a cubic.

    Args:
        one: Pairs of x > 0 and dB.
        other: Likewise.

    Returns:
        dB; None where the curves have no x in common.

    Example:
        >>> mean_gap([(1.0, 30.0), (4.0, 34.0)], [(1.0, 29.0), (2.0, 30.0), (8.0, 32.0)])
        2.0
    """
    first, second = (np.array(sorted(curve)).T for curve in (one, other))
    low, high = max(first[0][0], second[0][0]), min(first[0][-1], second[0][-1])
    if low > high:
        return None
    knots = np.unique(np.concatenate([[low, high], first[0], second[0]]))
    x = np.log(knots[(knots >= low) & (knots <= high)])
    gap = np.interp(x, np.log(first[0]), first[1]) - np.interp(x, np.log(second[0]), second[1])
    if len(x) == 1:
        return float(gap[0])
    return float((np.diff(x) * (gap[1:] + gap[:-1]) / 2).sum() / (x[-1] - x[0]))


def _longest(rows: Sequence[Row]) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows:
        if row["kind"] == "fit":
            found[row["method"]] = max(row["steps"], found.get(row["method"], 0))
    return found


def _run_all(todo: Sequence[Job], out: Path, processes: int) -> Iterator[tuple[str, Row]]:
    waiting = []
    for job in todo:
        kept = job.found(out)
        if kept is None:
            waiting.append(job)
        else:
            yield job.name, kept
    begin = time.monotonic()
    for done, (job, row) in enumerate(side_by_side(partial(run_job, out=out), waiting, processes), start=1):
        yield job.name, row
        left = (time.monotonic() - begin) / done * (len(waiting) - done)
        print(
            f"{time.strftime('%H:%M:%S')} [{done}/{len(waiting)}] {row['image']}, {row['method']},"
            f" {row['steps']} steps: {row['psnr']:.2f} dB at {row['bpp']:.3f} bpp, {row['fit_seconds']:.0f} CPU s;"
            f" {math.ceil(left / 60)} min left",
            flush=True,
        )


def _write_whole(path: Path, text: str) -> None:
    """Write a file that is there wholly or not at all, whenever the process is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
