"""What a fit has come to: maps, pictures, a movie, a report and every number."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from recipes._tables import text
from recipes.cryo_em import figures, report
from recipes.cryo_em.controls import held_out
from recipes.cryo_em.evaluate import Evaluation, Heterogeneous, Options, evaluate
from recipes.cryo_em.fsc import HALF_MAPS
from recipes.cryo_em.half_maps import HalfMapCorrelation, half_map_fsc
from recipes.cryo_em.homogeneous import Homogeneous, Reconstruction, reconstruct
from recipes.cryo_em.maps import write_map
from recipes.cryo_em.masks import soft_mask
from recipes.cryo_em.movie import write_movie
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.run import one_torch_thread

Found = dict[str, Any]

MAPS = "maps"
"""Folder of .mrc files within a run's."""
MASK_EDGE = 3.0
"""Voxels of the soft edge of the mask of half maps."""


def finish(
    model: Heterogeneous,
    particles: Particles,
    out: Path,
    about: Found,
    unseen: Particles | None = None,
    options: Options | None = None,
) -> Found:
    """Evaluate a fitted model beside the homogeneous baseline, and write all there is to say about it.

    Args:
        model: Fitted, in evaluation mode.
        particles: It was fitted to, standardised as then.
        out: Folder; receives ``maps/*.mrc``, ``latents.npz``, ``latents.png``, ``fsc.png`` (with truth),
            ``half-maps.png``, ``sections.png``, ``flexibility.png``, ``traversal.gif``, ``report.html`` and
            ``metrics.json``.
        about: ``command``, ``config``, ``data`` (words that say what the particles are), and whatever else belongs into
            ``metrics.json``.
        unseen: Held-out particles.
        options: What is evaluated.

    Returns:
        What ``metrics.json`` holds.
    """
    out.mkdir(parents=True, exist_ok=True)
    with one_torch_thread():
        return _finish(model, particles, out, about, unseen, options)


def _finish(
    model: Heterogeneous,
    particles: Particles,
    out: Path,
    about: Found,
    unseen: Particles | None,
    options: Options | None,
) -> Found:
    found = evaluate(model, particles, options)
    single = reconstruct(particles, model.support)
    halves = half_map_fsc(*single.halves, particles.pixel_size, soft_mask(model.support.cpu(), edge=MASK_EDGE))
    scores: Found = {**found.scores, "half_maps": numbers_of(halves)}
    beside: Evaluation | None = None
    if found.by_label is not None:
        beside = evaluate(Homogeneous(single.fitted, model.support, particles.pixel_size), particles, options)
        scores["homogeneous"] = beside.scores["states"]
        if unseen is not None and unseen.labels is not None and len(unseen) > 1:
            scores["held_out"] = held_out(model, particles, unseen).numbers()
    everything: Found = {**about, "scores": scores}
    found.save(out / "latents.npz")
    write_maps(out / MAPS, found, single, model.support, particles.pixel_size)
    pictures = draw(found, beside, halves, model.support)
    for name, picture in pictures.items():
        picture.savefig(out / f"{name}.png", dpi=120)
    write_movie(out / "traversal.gif", found.path.volumes, "along PC 1")
    (out / "metrics.json").write_text(json.dumps(everything, indent=1), encoding="utf-8")
    report.write_fit(out / "report.html", everything, pictures)
    for name, said in report.facts(scores) + report.pose_facts(everything):
        if name in ("unseen images", "poses"):
            print(f"{name}: {said}")
    print(f"{text(report.score_table(scores))}\n\nreport: {out / 'report.html'}, maps: {out / MAPS}")
    return everything


def draw(
    found: Evaluation, beside: Evaluation | None, halves: HalfMapCorrelation | None, support: Tensor
) -> dict[str, Any]:
    """Figures by name: ``latents``, ``fsc``, ``half-maps``, ``sections``, ``flexibility``."""
    pictures = {"latents": figures.latents(found)}
    if found.by_label is not None and found.by_label.scores is not None:
        others = {}
        if beside is not None and beside.by_label is not None and beside.by_label.scores is not None:
            others["homogeneous"] = beside.by_label.scores.curves
        pictures["fsc"] = figures.fsc_of_states(found.by_label.scores.curves, others)
    if halves is not None:
        pictures["half-maps"] = figures.fsc_of_half_maps(halves)
    pictures["sections"] = figures.slices(found.shown, support)
    pictures["flexibility"] = figures.flexibility(found.flexibility, support, found.scores.get("flexibility"))
    return pictures


def write_maps(
    folder: Path, found: Evaluation, single: Reconstruction | None, support: Tensor, pixel_size: float
) -> list[Path]:
    """Write maps as .mrc: states, traversal, clusters, what tells flexibility, the mask, and the consensus with halves.

    Returns:
        The files.
    """
    maps: dict[str, Tensor] = {"mask": support.float()}
    for name, decoded in (("state", found.by_label), ("traversal", found.path), ("cluster", found.clusters)):
        if decoded is not None:
            maps |= {f"{name}{number:02d}": volume for number, volume in enumerate(decoded.volumes)}
    maps |= {f"{name}-spread": values for name, values in found.flexibility.items()}
    if single is not None:
        maps |= {
            "consensus": single.volume,
            "homogeneous": single.fitted,
            "half1": single.halves[0],
            "half2": single.halves[1],
        }
    for name, volume in maps.items():
        write_map(folder / f"{name}.mrc", volume, pixel_size)
    return [folder / f"{name}.mrc" for name in maps]


def numbers_of(halves: HalfMapCorrelation) -> Mapping[str, float | int]:
    """Resolutions at 0.143 in Angstrom, and where phases were randomised."""
    return {
        "resolution": halves.resolution(),
        "resolution_last": halves.resolution("last"),
        "unmasked": float(halves.unmasked.resolution(HALF_MAPS)),
        "masked": float(halves.masked.resolution(HALF_MAPS)),
        "start": halves.start,
    }
