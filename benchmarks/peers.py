"""lightning_cim beside its peers: one table, made in one process.

    make bench-peers                                 installs the peers into .venv-peers and runs this there
    python benchmarks/peers.py [--rounds 5] [--chips 20] [--wide] [--out FOLDER]

Both need the repository on PYTHONPATH. Everybody does the same: additive Gaussian noise of one std, relative to the
max|W| of each tensor, on the weights of all convolutions and linear layers, drawn anew for each training step and for
each chip; ideal inputs and outputs, one tile a layer; SGD with momentum. Before anybody is timed, the noise that its
layers compute with is measured from outside (peers_noise.py).

Ratios are of CPU time of one thread, contestants interleaved, to the same work without noise in plain PyTorch. Lines
are counted between the marks in peers_*.py, which are the code that is timed. The table says where a toolkit is not
installed or does not run on this torch: aihwkit's compiled tile needs the one that it was built for
(peers_requirements.txt).
"""

from __future__ import annotations

import argparse
import copy
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import peers_plain
import torch
from _measure import interleave, ratios
from monte_carlo import SmallConvNet
from peers_install import closure, installed_bytes, requirements_of, source_bytes
from peers_lines import count_lines
from peers_noise import check, observe
from peers_tasks import SIGMA, Batch, Chips, Step, accuracy, batch_of, mlp, plain_step, resnet18
from peers_toolkits import TOOLKITS, Toolkit
from torch import nn

from recipes._quiet import quiet
from recipes._tables import Cells, markdown, text

HERE = Path(__file__).resolve().parent
IMAGES, LOADED = 1000, 250
"""Of the Monte-Carlo evaluation: images, and images in a batch."""


@dataclass
class Row:
    """A measure: what it is, its unit, the base that ratios refer to, and a cell for each toolkit."""

    measure: str
    base: str = ""
    cells: dict[str, Any] = field(default_factory=dict)


def repeated(run: Callable[[], object], times: int) -> Callable[[], None]:
    def all_of_them() -> None:
        for _ in range(times):
            run()

    return all_of_them


def contest(rows: Sequence[Row], base: str, work: int, variants: dict[str, Callable[[], object]], rounds: int) -> None:
    """Time variants and fill the cells of rows: the first row against ``base``, the next ones against their own."""
    times = interleave(variants, rounds)
    for row, against in zip(rows, [base, *(row.base for row in rows[1:])], strict=True):
        for name, (least, median) in ratios(times, against).items():
            row.cells[name] = {"minima": least, "median": median}
        row.base = f"{min(times[against]) / work * 1e3:.3g} ms"


def prepared(row: Row, toolkit: Toolkit, make: Callable[[], Any]) -> Any:
    """What ``make`` makes, or None, with the reason in the row's cell."""
    if not toolkit.installed:
        row.cells[toolkit.name] = "not installed"
        return None
    try:
        return make()
    except (ImportError, RuntimeError) as error:  # a compiled tile and a torch that it was not built for
        row.cells[toolkit.name] = f"fails: {str(error).splitlines()[0][:60]}"
        return None


def training(
    measure: str, build: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, rounds: int
) -> tuple[list[Row], list[str]]:
    """Steps under a Gaussian, each toolkit's noise checked first."""
    row, batch = Row(measure), batch_of(*shape)
    variants: dict[str, Callable[[], object]] = {"clean": repeated(plain_step(build(), batch).run, steps)}
    for toolkit in TOOLKITS:
        step = prepared(row, toolkit, partial(warm, toolkit.train, build, batch))
        if step is not None:
            check(observe(step.network, build(), repeated(step.run, 2)), SIGMA, 2, f"{toolkit.name}, {measure}")
            variants[toolkit.name] = repeated(step.run, steps)
    contest([row], "clean", steps, variants, rounds)
    return [row], []


def training_pcm(
    measure: str, build: Callable[[], nn.Module], shape: tuple[int, ...], rounds: int
) -> tuple[list[Row], list[str]]:
    """Steps under phase-change memory, and the std of each toolkit's noise."""
    row, noise, batch = Row(measure), Row("std of that noise, over the largest weight"), batch_of(*shape)
    variants: dict[str, Callable[[], object]] = {"clean": plain_step(build(), batch).run}
    for toolkit in TOOLKITS:
        make = toolkit.train_pcm
        if make is None:
            row.cells[toolkit.name] = noise.cells[toolkit.name] = "no such noise" if toolkit.package else "not written"
            continue
        step = prepared(row, toolkit, partial(warm, make, build, batch))
        if step is not None:
            noise.cells[toolkit.name] = f"{observe(step.network, build(), repeated(step.run, 2)).std:.4f}"
            variants[toolkit.name] = step.run
    contest([row], "clean", 1, variants, rounds)
    return [row, noise], []


def warm(make: Callable[[nn.Module, Batch], Step], build: Callable[[], nn.Module], batch: Batch) -> Step:
    """A step that ran once, since aihwkit's compiled tile draws noise after an update, not before it."""
    step = make(build(), batch)
    step.run()
    return step


def warm_chips(make: Callable[[nn.Module, list[Batch]], Chips], network: nn.Module, batches: list[Batch]) -> Chips:
    """An evaluation that did one chip, so that what does not run on this torch is found before it is timed."""
    evaluation = make(network, batches)
    evaluation.run(1)
    return evaluation


def monte_carlo(chips: int, rounds: int) -> tuple[list[Row], list[str]]:
    """Chips of the small conv net against clean forwards in both memory formats; and how the plain loop does there."""
    torch.manual_seed(0)
    network = SmallConvNet().net.eval()
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(0, 10, (IMAGES,))
    batches = list(zip(torch.split(images, LOADED), torch.split(labels, LOADED), strict=True))
    fast = copy.deepcopy(network).to(memory_format=torch.channels_last)
    swapped = [(inputs.to(memory_format=torch.channels_last), targets) for inputs, targets in batches]
    rows = [
        Row("Monte Carlo, small conv net: chip / clean forward"),
        Row("same / clean forward in channels-last", base="clean, channels-last"),
    ]
    variants: dict[str, Callable[[], object]] = {
        "clean": repeated(lambda: accuracy(network, batches), chips),
        "clean, channels-last": repeated(lambda: accuracy(fast, swapped), chips),
    }
    for toolkit in TOOLKITS:
        made = prepared(rows[0], toolkit, partial(warm_chips, toolkit.evaluate, copy.deepcopy(network), batches))
        if made is None:
            rows[1].cells[toolkit.name] = rows[0].cells[toolkit.name]
            continue
        check(observe(made.network, network, partial(made.run, 2)), SIGMA, 2, f"{toolkit.name}, Monte Carlo")
        variants[toolkit.name] = partial(made.run, chips)
    plain = peers_plain.evaluate(fast, swapped)
    variants["plain, channels-last"] = partial(plain.run, chips)
    contest(rows, "clean", chips, variants, rounds)
    remarks = [f"Monte Carlo in {kit.name}: {kit.by_hand}." for kit in TOOLKITS if kit.by_hand]
    fastest = shown(rows[0].cells["plain, channels-last"])
    return rows, [*remarks, f"The plain loop in channels-last: {fastest} of a clean forward."]


def installing() -> list[Row]:
    """Megabytes and distributions beyond torch, and beyond torch and Lightning."""
    rows = []
    needs = {
        "lightning_cim": requirements_of(HERE.parent / "pyproject.toml"),
        "aihwkit-lightning": ["aihwkit-lightning"],
        "aihwkit, torch tile": ["aihwkit"],
        "aihwkit, C++ tile": ["aihwkit"],
        "plain PyTorch": ["torch"],
    }
    own = source_bytes(HERE.parent / "lightning_cim")
    for there in (["torch"], ["torch", "lightning"]):
        size, count = Row(f"MB on disk beyond {' and '.join(there)}"), Row("distributions of that")
        base = closure(there)
        for toolkit in TOOLKITS:
            if not toolkit.installed:
                size.cells[toolkit.name] = count.cells[toolkit.name] = "not installed"
                continue
            pulled = closure(needs[toolkit.name]) - base
            ours = toolkit.name == "lightning_cim"  # found through PYTHONPATH here, not installed
            size.cells[toolkit.name] = f"{(installed_bytes(pulled) + ours * own) / 1e6:.1f}"
            count.cells[toolkit.name] = str(len(pulled) + ours)
        rows += [size, count]
    return rows


def writing() -> list[Row]:
    """Lines to use."""
    train, evaluate = Row("lines to train under noise"), Row("lines to evaluate on chips")
    for toolkit in TOOLKITS:
        train.cells[toolkit.name] = str(count_lines(HERE / toolkit.source, toolkit.region))
        evaluate.cells[toolkit.name] = str(count_lines(HERE / toolkit.source, "evaluate"))
    return [train, evaluate]


def shown(cell: Any) -> str:
    """A cell as text: ratio of minima, and the median of the rounds' ratios in parentheses."""
    return f"{cell['minima']:.2f} ({cell['median']:.2f})" if isinstance(cell, dict) else str(cell)


def table(rows: Sequence[Row]) -> Cells:
    """Measures by toolkits."""
    names = [toolkit.name for toolkit in TOOLKITS]
    body = [[row.measure, row.base, *(shown(row.cells.get(name, "")) for name in names)] for row in rows]
    return ["", "clean", *names], body


def about(rounds: int, chips: int) -> dict[str, Any]:
    """When, where and with what."""
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    for name in ("lightning", "aihwkit", "aihwkit-lightning"):
        if importlib.util.find_spec(name.replace("-", "_")):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
        "versions": versions,
        "sigma": SIGMA,
        "rounds": rounds,
        "chips": chips,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--chips", type=int, default=20, help="of the Monte-Carlo evaluation, in a round")
    parser.add_argument("--wide", action="store_true", help="also the ResNet-18 of 11.2 M parameters")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write peers.json and peers.md there")
    options = parser.parse_args()
    if min(options.rounds, options.chips) < 1:
        parser.error("--rounds and --chips must be at least 1")
    torch.set_num_threads(1)
    quiet()
    rounds, pictures = options.rounds, (3, 32, 32)
    facts = about(rounds, options.chips)
    narrow, wide = partial(resnet18, 16), partial(resnet18, 64)
    counted = [*installing(), *writing()]
    tasks: list[Callable[[], tuple[list[Row], list[str]]]] = [
        lambda: training("training step, MLP 784-256-128-10", mlp, (784,), 100, rounds),
        lambda: training("training step, ResNet-18, w=16", narrow, pictures, 1, rounds),
        lambda: training_pcm("same under measured PCM", narrow, pictures, rounds),
        lambda: monte_carlo(options.chips, rounds),
    ]
    if options.wide:
        tasks.append(lambda: training("training step, ResNet-18, w=64", wide, pictures, 1, rounds))
    rows: list[Row] = []
    notes = [
        f"{facts['date']}; {facts['machine']}; "
        + ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
        + f". CPU time, one thread, {rounds} rounds: ratio of minima (median of ratios) to the clean run."
    ]
    for task in tasks:
        new_rows, new_notes = task()
        rows += new_rows
        notes += new_notes
        if options.out is not None:  # after each task: what is measured is kept
            write(options.out, facts, rows + counted, notes)
    print("\n" + text(table(rows + counted)) + "\n\n" + "\n".join(notes))


def write(folder: Path, facts: dict[str, Any], rows: list[Row], notes: list[str]) -> None:
    """Put peers.json and peers.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "peers.md").write_text("\n".join([markdown(table(rows)), "", *(f"- {note}" for note in notes), ""]))
    report = {"about": facts, "notes": notes, "rows": [asdict(row) for row in rows]}
    (folder / "peers.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
