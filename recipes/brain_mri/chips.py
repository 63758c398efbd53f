"""A reconstruction network on simulated chips: does it still find lesions, and does its threshold still hold?

Weights of convolutions and dense layers lie on crossbars and deviate, W + sigma max|W| z; norms, residual and
post-processing are digital. Variation lifts the residual everywhere, healthy tissue too, so a threshold may fail while
the ranking of voxels is still good. Each chip is therefore scored twice: with the threshold of the network without
variation (frozen: how it would be deployed) and with one that is found again on that chip's maps of the validation
volumes (re-tuned: a calibration of every chip).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser
from rich.progress import track

import lightning_cim as cim
from recipes._tables import text
from recipes.brain_mri import chips_report, run
from recipes.brain_mri.assess import maps_of
from recipes.brain_mri.datamodule import BrainData
from recipes.brain_mri.module import BrainModule
from recipes.brain_mri.residuals import KINDS, Kind
from recipes.brain_mri.scores import score
from recipes.brain_mri.thresholds import Threshold, best_dice_bisection
from recipes.brain_mri.volume import Volume

Found = dict[str, Any]
Fit = Callable[[list[str]], Any]
Row = dict[str, float]
"""``auprc``, ``dice_frozen``, ``dice_tuned``, ``fpr_frozen`` and the two thresholds: means over test volumes."""

PLAIN = "plain"
OWN = ("--study.", "--out", "--fast", "--help", "-h")
"""Options of `chips` itself, by how they begin; the others are of `fit`."""
FAST = {"sigmas": (0.1,), "chips": 3}


@dataclass(frozen=True)
class StudyOptions:
    """What to measure.

    Attributes:
        sigmas: Of the chips, above 0; the network without variation is always measured.
        chips: For each sigma.
        seed: Of the population of chips.
        maps: Residuals, some of l1, l2, ssim, fq.
        train_sigmas: One training under variation each, beside the plain one.

    Raises:
        ValueError: Numbers out of range, or an unknown map.
    """

    sigmas: tuple[float, ...] = (0.02, 0.05, 0.1)
    chips: int = 10
    seed: int = 0
    maps: tuple[Kind, ...] = ("fq", "l1")
    train_sigmas: tuple[float, ...] = (0.05,)

    def __post_init__(self) -> None:
        for name in ("sigmas", "maps", "train_sigmas"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.chips < 2:
            raise ValueError(f"chips={self.chips}: a spread over chips wants at least 2")
        if not all(math.isfinite(sigma) and sigma > 0 for sigma in (*self.sigmas, *self.train_sigmas)):
            raise ValueError("sigmas and train_sigmas must be above 0; 0 is always measured")
        if not self.maps or not set(self.maps) <= set(KINDS):
            raise ValueError(f"maps must be some of {', '.join(KINDS)}, got {list(self.maps)}")


class Point(NamedTuple):
    """What was measured where.

    Attributes:
        net: How it was trained.
        map: Residual.
        sigma: Of the chips; 0 without variation.
    """

    net: str
    map: Kind
    sigma: float


Results = dict[Point, list[Row]]
"""One row a chip; chip r is the same draw for every network, map and sigma."""


def study(
    nets: Mapping[str, BrainModule],
    validation: Sequence[Volume],
    test: Sequence[Volume],
    options: StudyOptions,
    out: Path,
) -> Results:
    """Score networks on chips. A chip is on disk as soon as it is done; a killed study goes on at the next one.

    Args:
        nets: Trained networks by name.
        validation: Volumes with lesions, for thresholds.
        test: Other volumes with lesions.
        options: What to measure.
        out: Folder of one JSON file a network, sigma and chip.

    Returns:
        Scores of every chip.

    Raises:
        ValueError: No volume with a lesion for thresholds.
    """
    found: Results = {}
    for net, module in nets.items():
        clean = _kept(out / f"{net}-0.json", partial(measure, module, validation, test, options.maps))
        frozen = {kind: Threshold(row["threshold_tuned"], "without variation") for kind, row in clean.items()}
        for kind in options.maps:
            found[Point(net, kind, 0.0)] = [clean[kind]]
        for sigma in options.sigmas:
            population = cim.ChipPopulation(module, cim.Gaussian(sigma), seed=options.seed)
            rows = []
            for number in track(range(options.chips), f"{net} on chips of sigma {sigma:g}", transient=True):
                work = partial(_on_chip, population[number], module, validation, test, options.maps, frozen)
                rows.append(_kept(out / f"{net}-{sigma:g}-{number}.json", work))
            for kind in options.maps:
                found[Point(net, kind, sigma)] = [row[kind] for row in rows]
    return found


def measure(
    module: BrainModule,
    validation: Sequence[Volume],
    test: Sequence[Volume],
    maps: Sequence[Kind],
    frozen: Mapping[Kind, Threshold] | None = None,
) -> dict[Kind, Row]:
    """Scores of a network as it is now, on a chip or not.

    Args:
        module: The network.
        validation: Volumes with lesions, for the re-tuned threshold.
        test: Volumes with lesions, for scores.
        maps: Residuals.
        frozen: Thresholds that were there before; None: the re-tuned ones.
    """
    seen = [[module.examine(volume, maps) for volume in volumes] for volumes in (validation, test)]
    segs = [volume.seg for volume in validation if volume.seg is not None]
    found: dict[Kind, Row] = {}
    for kind in maps:
        for_threshold, for_scores = (maps_of(examined, kind) for examined in seen)
        tuned = best_dice_bisection(for_threshold, segs)
        threshold = tuned if frozen is None else frozen[kind]
        kept, again = (score(for_scores, test, each).mean() for each in (threshold, tuned))
        found[kind] = {
            "auprc": kept["auprc"],
            "dice_frozen": kept["dice"],
            "dice_tuned": again["dice"],
            "fpr_frozen": kept["fpr"],
            "threshold_frozen": threshold.value,
            "threshold_tuned": tuned.value,
        }
    return found


def _on_chip(chip: cim.Chip, module: BrainModule, *arguments: Any) -> dict[Kind, Row]:
    with cim.on_chip(module, chip):
        return measure(module, *arguments)


def _kept(path: Path, work: Callable[[], dict[Kind, Row]]) -> dict[Kind, Row]:
    """What an earlier run found, or what work finds, written at once."""
    if path.exists():
        kept: dict[Kind, Row] = json.loads(path.read_text(encoding="utf-8"))
        return kept
    found = work()
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(path)
    return found


def on_chips(words: Sequence[str], fit: Fit) -> Found:
    """``chips [--study.*] [options of fit]``: train plain and under variation, and score both on chips."""
    parser = ArgumentParser(
        prog="iqa.py chips",
        description="Train plain and under variation, and score both on chips. Takes all options of fit too.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/iqa-chips"), help="Folder; a killed study continues.")
    parser.add_argument("--fast", action="store_true", help="Short trainings, one sigma, few chips.")
    parser.add_class_arguments(StudyOptions, "study")
    rest = [word for word in words if not word.startswith(OWN)]
    given = parser.parse_args([word for word in words if word.startswith(OWN)])
    if given.fast:
        rest, defaults = ["--fast", *rest], StudyOptions()
        for name, value in FAST.items():
            if given.study[name] == getattr(defaults, name):
                given.study[name] = value
    options, out = StudyOptions(**given.study.as_dict()), given.out
    trainings: dict[str, list[str]] = {PLAIN: []} | {
        f"trained at {s:g}": [f"--cim.sigma={s}"] for s in options.train_sigmas
    }
    nets = {}
    for net, more in trainings.items():
        folder = out / net.replace(" ", "-")
        fit(["fit", *rest, *more, "--control=null", f"--out={folder}"])
        nets[net], config = trained(folder)
    # Chips of other options would be mistaken for these; how many there are may change.
    run.claim(out / "chips", {"seed": options.seed, "maps": options.maps, "config": config["data"]})
    data = data_of(config)
    results = study(nets, data.lesion_val, data.lesion_test, options, out / "chips")
    command = " ".join(["python recipes/iqa.py chips", *words])
    return _write(out, results, asdict(options), config, len(data.lesion_test), command)


def trained(folder: Path) -> tuple[BrainModule, Found]:
    """The network of a finished `fit`, and its configuration."""
    config = json.loads((folder / run.CONFIG).read_text(encoding="utf-8"))
    module = BrainModule(**{"size": config["data"]["size"], **config["model"]})
    return run.load(module, folder / module.criterion.kind), config


def data_of(config: Found) -> BrainData:
    """The data of a run's configuration."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(BrainData, "data")
    data: BrainData = parser.instantiate_classes(parser.parse_object({"data": config["data"]})).data
    return data


def _write(out: Path, results: Results, options: Found, config: Found, volumes: int, command: str) -> Found:
    chips = options["chips"]
    found: Found = {
        "about": f"{config['model']['arch']}, trained with {config['model']['loss']}, {config['data']['contrast']},"
        f" {config['data']['lesions']}. {chips} chips of population seed {options['seed']}, chip r the same draw for"
        f" every network, map and sigma; scores are means over {volumes} test volumes.",
        "command": command,
        "options": options,
        "rows": [
            {**point._asdict(), "chip": r, **row} for point, rows in results.items() for r, row in enumerate(rows)
        ],
    }
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    run.write_rows(out / "chips.csv", found["rows"])
    curves = chips_report.against_sigma(results)
    curves.savefig(out / "scores-against-sigma.png", dpi=120)
    tables = [
        ("On chips", chips_report.NOTE, chips_report.score_table(results)),
        ("What re-tuning gains", chips_report.PAIRED, chips_report.retuning_table(results)),
    ]
    if len(options["train_sigmas"]):
        table = chips_report.training_table(results, PLAIN)
        tables.append(("What training under variation gains", chips_report.PAIRED, table))
    chips_report.write(out / "report.html", found, tables, curves)
    for heading, _, cells in tables:
        print(f"\n{heading}\n{text(cells)}")
    print(f"\nreport: {out / 'report.html'}")
    return found


COMMANDS: dict[str, Callable[[Sequence[str], Fit], Any]] = {"chips": on_chips}
"""Subcommands for `recipes/iqa.py`."""
