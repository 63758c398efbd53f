"""What a trained run has come to: thresholds, tables, maps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from recipes._tables import text
from recipes.brain_mri import assess, figures, report
from recipes.brain_mri.assess import INTENSITY, Cell, Thresholds
from recipes.brain_mri.datamodule import BrainData
from recipes.brain_mri.figures import Shown
from recipes.brain_mri.module import BrainModule, Examined
from recipes.brain_mri.nifti import write_map
from recipes.brain_mri.postprocess import remove_small
from recipes.brain_mri.residuals import Kind
from recipes.brain_mri.run import history, write_rows
from recipes.brain_mri.thresholds import Threshold
from recipes.brain_mri.volume import Volume

Found = dict[str, Any]
Models = Mapping[Kind, BrainModule]
"""By the loss they were trained with, the run's own first."""

THRESHOLDS = "thresholds.json"
ABLATED: tuple[Kind, ...] = ("l1", "fq")
"""Maps that every test compares."""
NO_MODEL = "-"
SHOWN = 4
"""Volumes in a panel."""
_NOT_OF_VALIDATION = ("batch_size", "slices_per_epoch", "cache", "predict")


def validate(models: Models, data: BrainData, out: Path, about_data: Found) -> dict[str, Thresholds]:
    """Find the thresholds of every training and map on validation volumes, and write ``thresholds.json``.

    Args:
        models: Trained.
        data: Its ``healthy_val`` and ``lesion_val`` are seen, nothing else.
        out: Folder of the run.
        about_data: The options that `data` was made from; stored beside the thresholds.

    Returns:
        Thresholds by ``LOSS/MAP``.
    """
    lesion, healthy, kinds = data.lesion_val, data.healthy_val, kinds_of(models)
    found: dict[str, Thresholds] = {}
    for loss, module in models.items():
        seen = [assess.examine(module, some, kinds, f"validation, trained {loss}") for some in (lesion, healthy)]
        for kind in kinds:
            maps, rest = (assess.maps_of(each, kind) for each in seen)
            found[f"{loss}/{kind}"] = assess.find_thresholds(maps, lesion, rest, healthy)
    plain, rest = (assess.intensity_maps(some) for some in (lesion, healthy))
    found[f"{NO_MODEL}/{INTENSITY}"] = assess.find_thresholds(plain, lesion, rest, healthy)
    assess.write_thresholds(out / THRESHOLDS, found, _of_validation(about_data))
    print(f"{text(report.threshold_table(found))}\n\nthresholds: {out / THRESHOLDS}")
    return found


def known_thresholds(models: Models, out: Path, about_data: Found | None = None) -> dict[str, Thresholds] | None:
    """Those of an earlier `validate` of the same models; None if there are none.

    Args:
        models: Trained.
        out: Folder of the run.
        about_data: If given, thresholds of data of other options do not count.
    """
    if not (out / THRESHOLDS).exists():
        return None
    found, of_data = assess.read_thresholds(out / THRESHOLDS)
    wanted = {f"{loss}/{kind}" for loss in models for kind in kinds_of(models)}
    same = about_data is None or of_data == _of_validation(about_data)
    return found if same and wanted <= set(found) else None


def test(models: Models, data: BrainData, out: Path, about: Found) -> Found:
    """Score every training and map on the test volumes with lesions.

    Args:
        models: Trained.
        data: The volumes.
        out: Folder of the run; thresholds are taken from it, or found first.
        about: ``command`` and ``config``.

    Returns:
        What ``metrics.json`` holds. A folder ``test-LESIONS`` receives it, ``table.csv``, ``volumes.csv``,
        ``panel.png``, ``scores.png``, ``maps/*.nii.gz`` of the run's own loss and map, and ``report.html``.
    """
    options, kinds, volumes = about["config"]["data"], kinds_of(models), data.lesion_test
    thresholds = known_thresholds(models, out, options) or validate(models, data, out, options)
    folder = out / f"test-{'nifti' if options['source'] == 'nifti' else options['lesions']}"
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    own, module = next(iter(models.items()))
    cells: list[Cell] = []
    first: list[Examined] = []
    errors = {}
    for loss, each in models.items():
        seen = assess.examine(each, volumes, kinds, f"test, trained {loss}")
        rest = assess.examine(each, data.healthy_val, kinds, f"healthy, trained {loss}")
        for kind in kinds:
            found_for = thresholds[f"{loss}/{kind}"]
            maps, healthy = (assess.maps_of(some, kind) for some in (seen, rest))
            cells.append(assess.cell(loss, kind, found_for, maps, volumes, healthy, data.healthy_val))
        errors[loss] = assess.errors(seen, volumes)
        first = first or seen
    found_for = thresholds[f"{NO_MODEL}/{INTENSITY}"]
    plain, rest_plain = assess.intensity_maps(volumes), assess.intensity_maps(data.healthy_val)
    cells.append(assess.cell(NO_MODEL, INTENSITY, found_for, plain, volumes, rest_plain, data.healthy_val))
    main = next(cell for cell in cells if cell.name == f"{own}/{module.residual}")
    for volume, examined in track(list(zip(volumes, first, strict=True)), "maps", transient=True):
        write_map(volume, examined.maps[module.residual], folder / "maps" / f"{volume.name}.nii.gz")
    shown = [
        Shown(volume, examined, remove_small(main.threshold.binary(examined.maps[module.residual])))
        for volume, examined in zip(volumes[:SHOWN], first, strict=False)
    ]
    found: Found = {
        **about,
        "about": _lead(module, main, volumes),
        "volumes": len(volumes),
        "inversion": module.air.state(),
        **assess.intensity_ratio(volumes, bool(module.air.inverted)),
        "cells": [cell.row() for cell in cells],
        "errors": errors,
    }
    tables = [
        (f"{len(volumes)} test volumes", report.SCORES_NOTE, report.score_table(cells)),
        ("What a change does, volume by volume", "Paired, with 95 % bootstrap intervals over volumes.",
         report.difference_table(cells)),
        ("Where thresholds come from", "A voxel is called if its map is strictly above.",
         report.threshold_table(thresholds)),
        ("Errors of reconstructions", "Of intensities as shown, before any post-processing.",
         report.error_table(errors)),
    ]  # fmt: skip
    curves = figures.training_curves({loss: history(out / loss) for loss in models})
    pictures = (figures.panel(shown, kinds), figures.score_dots(cells), curves)
    for name, picture in zip(("panel", "scores", "training"), pictures, strict=True):
        picture.savefig(folder / f"{name}.png", dpi=120)
    _write_csv(folder, cells)
    (folder / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    report.write_test(folder / "report.html", found, tables, pictures)
    for heading, _, table in tables[:2]:
        print(f"\n{heading}\n{text(table)}")
    print(f"\nDice of {main.name} at {main.threshold}\nreport: {folder / 'report.html'}")
    return found


def predict(module: BrainModule, threshold: Threshold | None, data: BrainData, out: Path) -> list[Path]:
    """Write the map of every volume to predict as NIfTI, on the volume's own grid, and a panel.

    Args:
        module: Trained.
        threshold: Of the map; None if none has been found: then no binary maps are written.
        data: Its ``predict_volumes``.
        out: Folder of the run; ``predictions`` in it receives ``NAME.nii.gz``, ``NAME-called.nii.gz``, ``panel.png``.

    Returns:
        The maps.

    Raises:
        ValueError: There is nothing to predict.
    """
    folder, kind = out / "predictions", module.residual
    volumes: Sequence[Volume] = data.predict_volumes
    if not volumes:
        raise ValueError("there are no volumes to predict")
    folder.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    shown: list[Shown] = []
    for volume in track(volumes, "predict", transient=True):
        examined = module.examine(volume, [kind])
        called = np.zeros_like(volume.mask)
        paths.append(folder / f"{volume.name}.nii.gz")
        write_map(volume, examined.maps[kind], paths[-1])
        if threshold is not None:
            called = remove_small(threshold.binary(examined.maps[kind]))
            write_map(volume, called, folder / f"{volume.name}-called.nii.gz")
        if len(shown) < SHOWN:
            shown.append(Shown(volume, examined, called))
    figures.panel(shown, [kind]).savefig(folder / "panel.png", dpi=120)
    said = "no threshold yet (run validate)" if threshold is None else f"called above {threshold}"
    print(f"{len(paths)} maps in {folder}; {said}")
    return paths


def kinds_of(models: Models) -> list[Kind]:
    """The maps to compare, and the run's own."""
    own = next(iter(models.values())).residual
    return [*ABLATED, *([] if own in ABLATED else [own])]


def _of_validation(about_data: Found) -> Found:
    """The options that decide what validation volumes are."""
    return {name: value for name, value in about_data.items() if name not in _NOT_OF_VALIDATION}


def _lead(module: BrainModule, main: Cell, volumes: Iterable[Volume]) -> str:
    spans, state = main.scores.interval(), module.air.state()
    dice, auprc = (" [".join(f"{100 * x:.1f}" for x in spans[name][:2]) + f", {100 * spans[name][2]:.1f}]"
                   for name in ("dice", "auprc"))  # fmt: skip
    return (
        f"{module.hparams['arch']}, trained with {main.trained} on healthy slices, map {main.map}:"
        f" Dice {dice}, AUPRC {auprc} (per cent, 95 % intervals over {len(list(volumes))} volumes)."
        f" Threshold {main.threshold}. Intensities {'inverted' if state['inverted'] else 'not inverted'} inside the"
        f" brain (air={state['mode']}; mean of healthy training volumes {state['mu']:.3f})."
    )


def _write_csv(folder: Path, cells: Sequence[Cell]) -> None:
    rows = []
    for cell in cells:
        row = cell.row()
        line = {"trained": cell.trained, "map": cell.map, "threshold": cell.threshold.value,
                "threshold_origin": cell.threshold.origin}  # fmt: skip
        for name, values in row.items():
            if isinstance(values, list):
                line |= dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
            elif name not in line:
                line[name] = values
        rows.append(line)
    write_rows(folder / "table.csv", rows)
    each = [{"trained": cell.trained, "map": cell.map, **row} for cell in cells for row in cell.scores.rows()]
    write_rows(folder / "volumes.csv", each)
