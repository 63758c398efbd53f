"""Every method on one network, over sigmas and seeds, from jobs to report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recipes._page import Part, write_page
from recipes._side_by_side import side_by_side
from recipes._tables import markdown, text
from recipes.image_classification import figures, tables
from recipes.image_classification.job import Job, jobs_of, run_job, write_whole
from recipes.image_classification.methods import METHODS, check_methods
from recipes.image_classification.models import count_weights
from recipes.image_classification.settings import Settings

Found = dict[str, Any]


def compare(
    settings: Settings,
    methods: Sequence[str],
    sigmas: Sequence[float],
    seeds: Sequence[int],
    out: Path,
    jobs: int = 1,
    command: str = "",
) -> Found:
    """Train and measure every (method, sigma, seed), then write tables, pictures and the report.

    A job writes ``out/jobs/NAME.json`` when it is done; a killed run given the same folder goes on with the others.
    Methods, sigmas and seeds may be added to a finished folder.

    Args:
        settings: What all jobs share.
        methods: Names of ``METHODS``; NeFT only together with ``temperature``.
        sigmas: To train for and to measure at, each above 0.
        seeds: Of training, each at least 0.
        out: Folder of the run.
        jobs: Processes side by side, one thread each.
        command: What the user typed, for the report.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: Arguments out of range, NeFT without its control, or a folder of other settings.
    """
    check(methods, sigmas, seeds, jobs)
    claim(out, settings)
    todo = jobs_of(list(methods), list(sigmas), list(seeds))
    runs: dict[tuple[str, float | None], list[Found]] = {}
    results = dict(_run_all(todo, settings, out, jobs))
    for job in todo:
        runs.setdefault((job.method, job.sigma), []).append(results[job])
    return write_results(tables.rows_by_sigma(runs, methods, sigmas), settings, out, command)


def check(methods: Sequence[str], sigmas: Sequence[float], seeds: Sequence[int], jobs: int) -> None:
    """Refuse what cannot be compared.

    Raises:
        ValueError: Says what is wrong.
    """
    check_methods(list(methods))
    feedback = [name for name in methods if METHODS[name].beta is not None]
    if feedback and "temperature" not in methods:
        raise ValueError(
            f"{' and '.join(feedback)} without temperature: NeFT's loss divides its logits by 4, which alone changes"
            " training. Add temperature to the methods, so that the table tells the feedback's effect from that."
        )
    for name, values in (("sigmas", sigmas), ("seeds", seeds)):
        if not values or len(set(values)) < len(values):
            raise ValueError(f"{name} must be one or several different numbers, got {list(values)}")
    if min(sigmas) <= 0 or max(sigmas) > 10:
        raise ValueError(f"sigmas to train for must lie in (0, 10], got {list(sigmas)}; method none is the one at 0")
    if min(seeds) < 0:
        raise ValueError(f"seeds must be at least 0, got {list(seeds)}")
    if jobs < 1:
        raise ValueError(f"jobs must be at least 1, got {jobs}")


def claim(out: Path, settings: Settings) -> None:
    """Make the folder, or see that it belongs to the same settings.

    Raises:
        ValueError: It does not.
    """
    path = out / "config.json"
    text = json.dumps(settings.as_dict(), indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(f"{out} holds a run with other settings (see {path}); choose another --out, or delete it")
    write_whole(path, text)


def _run_all(todo: list[Job], settings: Settings, out: Path, jobs: int) -> Iterator[tuple[Job, Found]]:
    waiting = []
    for job in todo:
        found = job.found(out)
        if found is not None and not job.missing(out):
            yield job, found
        else:
            waiting.append(job)
    if not waiting:
        return
    kept = len(todo) - len(waiting)
    _say(f"{len(waiting)} of {len(todo)} jobs to do" + (f", {kept} kept from {out}" if kept else ""))
    run = partial(run_job, settings=settings, out=out)
    begin = time.monotonic()
    for done, (job, found) in enumerate(side_by_side(run, waiting, jobs), start=1):
        yield job, found
        left = (time.monotonic() - begin) / done * (len(waiting) - done)
        _say(f"[{done}/{len(waiting)}] {_headline(job, found)}; {_minutes(left)} left")


def _headline(job: Job, found: Found) -> str:
    means = ", ".join(f"{100 * at['mean']:.1f} % at sigma {sigma}" for sigma, at in found["at"].items())
    return f"{job.name}: clean {100 * found['clean']:.1f} %, chips {means}; trained {found['train_seconds']:.0f} CPU s"


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def write_results(by_sigma: dict[float, list[Found]], settings: Settings, out: Path, command: str) -> Found:
    """Print the tables and write ``metrics.json``, ``compare.md``, pictures and ``report.html``."""
    about = describe(by_sigma, settings)
    written = [f"# Methods side by side\n\n{about}\n\n    {command}\n"]
    parts: list[Part] = [("p", about), ("pre", command), ("h2", "Accuracy against sigma")]
    picture = figures.curves(by_sigma)
    picture.savefig(out / "accuracy-against-sigma.png", dpi=120)
    parts += [("figure", picture), ("note", _curve_note(settings))]
    for sigma, rows in by_sigma.items():
        main, differences = tables.main_table(rows), tables.difference_table(rows)
        heading = f"sigma = {sigma:g}"
        note = definitions(rows, settings, sigma)
        print(f"\n{heading}\n{text(main)}")
        written.append(f"\n## {heading}\n\n{markdown(main)}\n")
        parts += [("h2", heading), ("table", main)]
        if differences is not None:
            print(f"\n{DIFFERENCES}\n{text(differences)}")
            written.append(f"\n{DIFFERENCES}\n\n{markdown(differences)}\n")
            parts += [("h3", "Paired differences"), ("note", DIFFERENCES), ("table", differences)]
        parts += [("h3", "Chips"), ("figure", figures.chips(rows)), ("note", note)]
    reading = reading_of(settings)
    shown = [row["method"] for rows in by_sigma.values() for row in rows]
    methods = [(METHODS[name].label, METHODS[name].note) for name in dict.fromkeys(shown)]
    parts += [("h2", "How to read the table"), ("list", reading), ("h2", "Methods"), ("list", methods)]
    parts += [("h2", "Settings"), ("pre", json.dumps(settings.as_dict(), indent=1))]
    listed = "\n".join(f"- **{term}**: {text}" for term, text in [*reading, *methods])
    written.append(f"\n{listed}\n")
    print("\n" + "\n".join(f"{term}: {text}" for term, text in reading))
    found = {"settings": settings.as_dict(), "command": command, "about": about}
    found["tables"] = {f"{sigma:g}": rows for sigma, rows in by_sigma.items()}
    write_whole(out / "metrics.json", json.dumps(found, indent=1))
    write_whole(out / "compare.md", "".join(written))
    write_page(out / "report.html", "Training for compute-in-memory chips: methods side by side", parts)
    print(f"\nreport: {out / 'report.html'}")
    return found


def describe(by_sigma: dict[float, list[Found]], settings: Settings) -> str:
    """Data, network and training in one paragraph."""
    data = settings.datamodule()
    module = settings.untrained(data)
    seeds = sorted({seed for rows in by_sigma.values() for row in rows for seed in row["seeds"]})
    width = settings.model.get("width")
    return (
        f"{settings.model['arch']}{'' if width is None else f' at {width:g} of its published width'},"
        f" {count_weights(module):,} parameters, on {data}. {settings.train.epochs} epochs of Adam with a cosine"
        f" schedule from lr {settings.model['lr']:g}, batches of {settings.data['batch_size']}; training seeds"
        f" {', '.join(map(str, seeds))}. The last epoch is reported, nothing was chosen on test images."
    )


DIFFERENCES = (
    "Difference of the mean accuracy over chips in points, on the same chips and with the same training seeds, with its"
    " 95 % interval over seeds (Student's t). * marks an interval without 0."
)


def _curve_note(settings: Settings) -> str:
    return (
        f"Mean over {settings.assess.curve_chips} chips a point; lines are means over training seeds, bands one"
        " standard deviation over seeds. No noise and CorrectNet do not know sigma: the same curve in every panel."
    )


def definitions(rows: Sequence[Found], settings: Settings, sigma: float) -> str:
    """What the chips of one table are."""
    counts = {METHODS[row["method"]].label: row["chips"] for row in rows}
    most = max(counts.values())
    fewer = "".join(f"; {label}: the first {count}" for label, count in counts.items() if count != most)
    variation = settings.variation(sigma)
    return (
        f"{variation}: std of a weight's deviation = {variation.std:.4f} x max|W| of its tensor."
        f" {most} chips{fewer}, population seed {settings.assess.chip_seed}, the same chips for every network;"
        " each chip is held for all test images."
    )


def reading_of(settings: Settings) -> list[tuple[str, str]]:
    """What each column means, with everything that its figures depend on."""
    options = settings.assess
    return [
        ("±", "standard deviation over training seeds"),
        ("sigma", f"as in the {settings.paper} paper's convention; {settings.variation(0.1)} at 0.1"),
        ("clean", "test accuracy without deviation"),
        ("mean, std, worst chip", "over simulated chips; test images"),
        (
            "KPP 1 %",
            "1st percentile of accuracy over chips, in brackets its order-statistic 95 % interval (mean over seeds)",
        ),
        (
            "worst case",
            f"test accuracy on one chip found by sign search within {options.bound:g} x max|W| of every tensor, on"
            f" {options.search_images} training images",
        ),
        (
            "EKL",
            f"expected KL divergence of a chip's softmax from the mean of {options.curve_chips} chips, in nats"
            " (definition ours); small is good only where accuracy is high. 'T fitted': at the temperature that fits"
            " validation images on other chips; compare by this one: NeFT and its control train with logits / 4",
        ),
        ("training CPU s", "process time of one training on one thread, evaluation on chips apart"),
        (
            "write cycles (NWC)",
            "normalised write cycles, verifying only: share of weights that SWIM verifies until accuracy on validation"
            f" images is within {100 * options.max_drop:g} point of this network's clean, mean over"
            f" {options.program_chips} chips; residual 0.03 in the same convention; small is good only where clean is"
            " high. '% met': share of chips within the budget when every weight is verified, where not all are. TSB:"
            " the shared block's share, whatever the drop",
        ),
    ]
