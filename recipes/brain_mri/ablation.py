"""The ablation: training by l1 or FQ, maps by l1 or FQ, intensities inverted or not, for networks, contrasts, lesions.

One training serves both maps and both kinds of lesions; inverted and plain intensities are separate trainings, as is
each seed. A job writes ``jobs/NAME.json`` when it is done, so a killed ablation goes on with the others, and networks,
contrasts and seeds may be added to a finished folder.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser

from recipes._page import Part, write_page
from recipes._side_by_side import side_by_side
from recipes._tables import markdown, text
from recipes.brain_mri import ablation_tables as tables
from recipes.brain_mri import run
from recipes.brain_mri.ablation_job import (
    LESIONS,
    Baseline,
    Found,
    Job,
    Settings,
    intensity_baseline,
    run_job,
    write_whole,
)
from recipes.brain_mri.datamodule import ContrastName
from recipes.brain_mri.models import Arch
from recipes.brain_mri.residuals import Kind

Fit = Callable[[list[str]], Any]

FAST = Settings(size=64, train=6, val=2, test=3, epochs=2, bottleneck_epochs=2)
"""What ``--fast`` stands for, with one seed and one contrast: it shows that everything runs, and nothing else."""


def jobs_of(
    contrasts: Sequence[ContrastName],
    archs: Sequence[Arch],
    airs: Sequence[Literal["on", "off"]],
    losses: Sequence[Kind],
    seeds: Sequence[int],
) -> list[Job]:
    """Every job, seed by seed, so that a table over fewer seeds could be had early.

    Example:
        >>> [job.name for job in jobs_of(["t2"], ["ae"], ["off", "on"], ["fq"], [0])]
        ['t2-ae-air-off-fq-seed0', 't2-ae-air-on-fq-seed0']
    """
    axes: dict[str, Sequence[Any]] = {
        "contrasts": contrasts, "archs": archs, "airs": airs, "losses": losses, "seeds": seeds
    }  # fmt: skip
    for name, values in axes.items():
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be one or several different ones, got {list(values)}")
    return [Job(c, a, i, k, seed) for seed, c, a, i, k in product(seeds, contrasts, archs, airs, losses)]


def ablate(jobs: Sequence[Job], settings: Settings, out: Path, processes: int = 1, command: str = "") -> Found:
    """Train and score every job, then write tables, picture and report.

    Args:
        jobs: The grid.
        settings: What they share; a folder of others is refused.
        out: Folder; receives ``jobs``, ``metrics.json``, ``ablation.md``, ``auprc.png`` and ``report.html``.
        processes: Jobs side by side, one thread each.
        command: What the user typed, for the report.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: A folder of other settings, or fewer than one process.
    """
    if processes < 1:
        raise ValueError(f"processes must be at least 1, got {processes}")
    run.claim(out, asdict(settings))
    contrasts = list(dict.fromkeys(job.contrast for job in jobs))
    baselines: dict[str, Baseline] = {contrast: intensity_baseline(contrast, settings, out) for contrast in contrasts}
    results = dict(_run_all(jobs, settings, out, processes))
    return _write(tables.Table({job: results[job] for job in jobs}, baselines), settings, out, command)


def _run_all(jobs: Sequence[Job], settings: Settings, out: Path, processes: int) -> Iterator[tuple[Job, Found]]:
    waiting = []
    for job in jobs:
        found = job.found(out)
        if found is None:
            waiting.append(job)
        else:
            yield job, found
    if waiting:
        _say(f"{len(waiting)} of {len(jobs)} jobs to do")
    train = partial(run_job, settings=settings, out=out)
    begin = time.monotonic()
    for done, (job, found) in enumerate(side_by_side(train, waiting, processes), start=1):
        yield job, found
        left = (time.monotonic() - begin) / done * (len(waiting) - done)
        _say(f"[{done}/{len(waiting)}] {job.name}: {tables.headline(found)}; {left / 60:.0f} min left")


def _write(table: tables.Table, settings: Settings, out: Path, command: str) -> Found:
    about = table.about(settings)
    parts: list[Part] = [("p", about), ("pre", command)]
    written = [f"# Ablation: loss, map, inversion\n\n{about}\n\n    {command}\n"]
    picture = table.picture()
    picture.savefig(out / "auprc.png", dpi=120)
    parts += [("figure", picture), ("note", tables.PICTURE_NOTE)]
    for heading, note, cells in table.all():
        print(f"\n{heading}\n{text(cells)}")
        written.append(f"\n## {heading}\n\n{note}\n\n{markdown(cells)}\n")
        parts += [("h2", heading), ("note", note), ("table", cells)]
    parts += [("h2", "Settings"), ("pre", json.dumps(asdict(settings), indent=1))]
    found: Found = {"about": about, "command": command, "settings": asdict(settings), **table.plain()}
    write_whole(out / "metrics.json", json.dumps(found, indent=1))
    write_whole(out / "ablation.md", "".join(written))
    write_page(out / "report.html", "Anomalies in brain MRI: ablation", parts)
    print(f"\nreport: {out / 'report.html'}")
    return found


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def on_command_line(words: Sequence[str], fit: Fit) -> Found:
    """``ablation [--archs ...] [--settings.*]``: the grid, its tables and its report."""
    parser = ArgumentParser(
        prog="iqa.py ablation", description=f"Loss by map by inversion, on {' and '.join(LESIONS)} lesions."
    )
    parser.add_argument("--contrasts", type=list[ContrastName], default=["flair", "t2"])
    parser.add_argument("--archs", type=list[Arch], default=["dae", "ae"])
    # YAML reads on and off as truth values.
    parser.add_argument("--airs", type=list[bool], default=[False, True], help="Inversion, of [off,on].")
    parser.add_argument("--losses", type=list[Kind], default=["l1", "fq"], help="Of training.")
    parser.add_argument("--seeds", type=list[int], default=[0, 1, 2], help="Of training.")
    parser.add_argument("--processes", type=int, default=1, help="Jobs side by side, one thread each.")
    parser.add_argument("--out", type=Path, default=Path("runs/iqa-ablation"), help="Folder; a killed one continues.")
    parser.add_argument("--fast", action="store_true", help="A try: small, one seed, FLAIR only, far too short.")
    parser.add_class_arguments(Settings, "settings")
    fast = "--fast" in words
    if fast:
        parser.set_defaults({"seeds": [0], "contrasts": ["flair"], "archs": ["dae"]})
        parser.set_defaults({f"settings.{name}": value for name, value in asdict(FAST).items()})
    options = parser.parse_args(list(words))
    airs: list[Literal["on", "off"]] = ["on" if air else "off" for air in options.airs]
    jobs = jobs_of(options.contrasts, options.archs, airs, options.losses, options.seeds)
    command = " ".join(["python recipes/iqa.py ablation", *words])
    return ablate(jobs, Settings(**options.settings.as_dict()), options.out, options.processes, command)


COMMANDS: dict[str, Callable[[Sequence[str], Fit], Any]] = {"ablation": on_command_line}
"""Subcommands for `recipes/iqa.py`."""
