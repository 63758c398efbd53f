"""What the subcommands do with a run's folder: evaluate its networks on other chips, program them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

import lightning_cim as cim
from recipes.image_classification.assess import programmed
from recipes.image_classification.datamodule import ImageData
from recipes.image_classification.job import silence
from recipes.image_classification.methods import METHODS
from recipes.image_classification.settings import Assessment, Settings, Training
from recipes.image_classification.trained import Trained, trainer_for


def evaluate(
    out: Path, methods: Sequence[str], sigma: float | None, chips: int, seed: int
) -> dict[str, cim.ChipResult]:
    """Test the trained networks of a run on simulated chips and print a table for each.

    Chips are on disk as soon as they are done (``out/evaluate/*.csv``); a killed evaluation continues.

    Args:
        out: Folder of ``fit`` or ``compare``.
        methods: Which; empty: all.
        sigma: Of the chips; None: what each network was trained for.
        chips: How many.
        seed: Their population.

    Returns:
        Results by the network's name.

    Raises:
        ValueError: No such run, or a network that was trained for no sigma when none is given.
    """
    settings, data = load_run(out)
    results = {}
    for name, trained in networks(out, settings, data, methods):
        at = _sigma(trained, sigma)
        with silence():
            result = cim.evaluate_chips(
                trainer_for(settings.train),
                trained.module,
                data,
                variation=settings.variation(at),
                chips=chips,
                seed=seed,
                csv=out / "evaluate" / f"{name}-at{at:g}-seed{seed}.csv",
            )
        print(f"\n{name} at sigma {at:g}\n{result}")
        figure, _ = result.plot("test/acc")
        figure.savefig(out / "evaluate" / f"{name}-at{at:g}-seed{seed}.png")
        results[name] = result
    return results


def program(out: Path, methods: Sequence[str], sigma: float | None, **options: Any) -> dict[str, cim.ProgrammingReport]:
    """Program chips of the trained networks with selective write-verify, print and export what was written.

    Writes ``out/program/NAME.csv`` (the curve), ``NAME.png`` and ``NAME.pt`` (chip 0: its ``state_dict`` and the mask
    of verified weights).

    Args:
        out: Folder of ``fit`` or ``compare``.
        methods: Which; empty: all.
        sigma: Of unverified weights; None: what each network was trained for.
        options: Of :func:`lightning_cim.program`: ``max_drop`` or ``verify_fraction``, and ``method``.

    Returns:
        Reports by the network's name.

    Raises:
        ValueError: As for :func:`evaluate`.
    """
    settings, data = load_run(out)
    reports = {}
    for name, trained in networks(out, settings, data, methods):
        at = _sigma(trained, sigma)
        with silence():
            report = programmed(trained, data, settings, at, progress=True, **options)
        print(f"\n{name} at sigma {at:g}\n{report}")
        stem = out / "program" / f"{name}-at{at:g}"
        stem.parent.mkdir(parents=True, exist_ok=True)
        report.to_csv(f"{stem}.csv")
        report.plot()[0].savefig(f"{stem}.png")
        torch.save(report.export(trained.module), f"{stem}.pt")
        reports[name] = report
    return reports


def load_run(out: Path) -> tuple[Settings, ImageData]:
    """Settings and data of a run.

    Raises:
        ValueError: The folder holds none.
    """
    path = out / "config.json"
    if not path.exists():
        raise ValueError(f"{out} is not the folder of a run (no config.json): give the --out of fit or compare")
    config = json.loads(path.read_text(encoding="utf-8"))
    train, assess = Training(**config.pop("train")), Assessment(**config.pop("assess"))
    settings = Settings(train=train, assess=assess, **config)
    data = settings.datamodule()
    data.setup()
    return settings, data


def networks(out: Path, settings: Settings, data: ImageData, methods: Sequence[str]) -> Iterator[tuple[str, Trained]]:
    """The trained networks of a run, with their names.

    Raises:
        ValueError: There is none of these methods.
    """
    found = False
    for path in sorted((out / "jobs").glob("*.ckpt")):
        trained = Trained.load(path, settings, data)
        if methods and trained.method not in methods:
            continue
        found = True
        if METHODS[trained.method].tune is not None:
            print(f"\n{path.stem}: this is the backbone alone; its block is trained for each chip, by fit and compare")
        yield path.stem, trained
    if not found:
        raise ValueError(f"{out / 'jobs'} holds no trained network" + (f" of {', '.join(methods)}" if methods else ""))


def _sigma(trained: Trained, sigma: float | None) -> float:
    if sigma is None and trained.sigma is None:
        raise ValueError(f"{trained.method} was trained for no sigma: say which one the chips have, --cim.sigma=0.2")
    return float(trained.sigma if sigma is None else sigma)  # type: ignore[arg-type]
