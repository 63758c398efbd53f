"""The support matrix as a page."""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.cells import UNTESTED, Cell, tried
from tests.support.features import DEPLOYMENT, TRAINING
from tests.support.layers import KINDS
from tests.support.ways import CALLBACKS, ON_GPUS, TWO_PROCESSES, WAYS

ROOT = Path(__file__).parents[2]
Rows = dict[str, dict[str, Cell]]

HEAD = """# What works with what

Written by `python -m tests.support docs/support.md`: each cell is a tiny training or evaluation that the tests run, and
`tests/support` fails if this page says something else.

| word | meaning |
|---|---|
| yes | it ran; weights deviated (were quantised, pruned, stored, ...) where they should, and were clean afterwards |
| digital | it ran, and this layer's weights stayed as they are: they are not mapped to crossbars |
| gauss-newton | yes; `program` ranks by a Gauss-Newton diagonal, because its fast recursion has no rule for the layer |
| refused | an error of this package; the messages are below the table |
| fails | an error that does not say what to do |
| untested | needs a GPU, and no machine with one has run these tests |

| column | is |
|---|---|
| injection | `VariationInjection` |
| TRICE | `RightCensoredTraining` |
| NeFT ovf, NeFT irs | `NegativeFeedback(mode="ovf")`, `NegativeFeedback(mode="irs")` |
| CorrectNet | `CorrectNetReg` |
| precision, sparsity | `MixedPrecision`, `StructuredSparsity` |
| chips | `evaluate_chips`, `MonteCarloEvaluation` |
| worst case, program, export | `worst_case`, `program`, `export_state_dict` |
| TSB | `TinySharedBlock` |
| crossbar | `Crossbar` |
"""


def layers(checks) -> Rows:
    """Every kind of layer with each of some features."""
    return {kind.name: {name: tried(lambda k=kind, c=check: c(k)) for name, check in checks.items()} for kind in KINDS}


def ways() -> Rows:
    """Every way of running with each callback."""
    here = {way.name: {name: tried(lambda w=way, c=check: c(w)) for name, check in CALLBACKS.items()} for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cells.json"
        environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
        process = subprocess.run(
            [sys.executable, "-m", "tests.support.two_processes", str(path)],
            cwd=ROOT,
            env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert process.returncode == 0, process.stderr[-4000:]
        found = json.loads(path.read_text(encoding="utf-8"))
    assert list(found) == [way.name for way in TWO_PROCESSES]
    there = {row: {name: Cell(**cell) for name, cell in cells.items()} for row, cells in found.items()}
    on_gpus = {name: dict.fromkeys(CALLBACKS, Cell(UNTESTED)) for name in ON_GPUS}
    return {**here, **there, **on_gpus}


def page() -> str:
    """The whole page."""
    parts = [
        HEAD,
        "## Layers in training\n\nIn `fit`, with the default `Mapping` unless the row says otherwise.\n",
        *_section("layer", layers(TRAINING)),
        "## Layers on chips\n\nAfter training; a lazy layer has seen a batch.\n",
        *_section("layer", layers(DEPLOYMENT)),
        "## Ways of running\n\nStrategies, precisions and modules, on the CPU, where `16-mixed` needs no"
        " gradient scaler; with one, `RightCensoredTraining` refuses it. Sharding strategies"
        " are stand-ins of their names, because the real ones do not start without GPUs.\n",
        *_section("how", ways()),
    ]
    return "\n".join(parts)


def _section(corner: str, rows: Rows) -> list[str]:
    columns = list(next(iter(rows.values())))
    lines = [f"| {corner} | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    lines += [f"| {row} | " + " | ".join(cells[name].word for name in columns) + " |" for row, cells in rows.items()]
    return ["\n".join(lines) + "\n", *_messages(rows)]


def _messages(rows: Rows) -> list[str]:
    """Each message once, with the rows and columns that have it."""
    where: dict[tuple[str, str], dict[str, list[str]]] = {}
    for row, cells in rows.items():
        for column, cell in cells.items():
            if cell.message:
                where.setdefault((cell.word, _general(cell.message)), {}).setdefault(row, []).append(column)
    lines = []
    for (word, message), places in where.items():
        names = list(dict.fromkeys(name for found in places.values() for name in found))
        everywhere = len(names) == len(next(iter(rows.values())))
        lines.append(f"- {'; '.join(places)} ({'all' if everywhere else ', '.join(names)}), {word}: *{message}*")
    return ["\n".join(lines) + "\n"] if lines else []


def _general(message: str) -> str:
    """Without the names of the networks and callbacks of these tests."""
    message = re.sub(r"^\w+(\(mode='\w+'\))?: ", "", message)
    message = re.sub(r"^\w+ (does not work with) \w+:", r"\1 STRATEGY:", message)
    message = re.sub(r"not around .*? \(\w+\)\.", "not around NAME (CLASS).", message)
    return re.sub(r"\b(Classifier|Plain|Manual|Checkpointed)_\w+", r"\1", message).replace("*", r"\*")
