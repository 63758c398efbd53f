"""Files of every kind that the package reads, and how each is read: what strangers' bytes are tried on."""

import io
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import lightning_cim as cim
from lightning_cim._enrol import CONFIG, for_lightning
from lightning_cim.cli import _checkpoint
from lightning_cim.codesign.llm.replay import ReplayBackend
from lightning_cim.codesign.space_file import read_space
from lightning_cim.codesign.store import TrialStore, read_trials
from lightning_cim.codesign.trial import Trial
from lightning_cim.evaluation.journal import CHIP_TIMES, CHIPS
from lightning_cim.programming.curve import HEADER, PREFIX
from lightning_cim.programming.journal import ScoreJournal
from lightning_cim.sweep.one_run import finished
from lightning_cim.sweep.runner import runs_in
from lightning_cim.sweep.sweep_file import SweepFile


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        name: What it is called in its folder.
        content: A good one.
        read: Opens it.
    """

    name: str
    content: bytes
    read: Callable[[Path], Any]


SWEEP = b"""program: train.py
method: grid
metric: {name: cim/acc_mean, goal: maximize}
parameters:
  cim.sigma: {values: [0.0, 0.1]}
  cim.seed: {min: 0, max: 3}
  model.lr: {distribution: q_uniform, min: 0.1, max: 0.4, q: 0.1}
command: ["${env}", python, "${program}", fit, "${args}"]
run_cap: 5
"""
SPACE = b"""name: mine
about: a space
slots:
  - {name: kernel, values: [3, 5, 7], unit: pixel, about: of all layers}
  - {name: lr, values: [0.001, 0.01]}
"""
DEVICE = b"""name = "cell"
conductance = { unit = "uS", min = 1.0, max = 50.0 }
[[programming]]
day = 0
sigma = { model = "linear", intercept = 0.5, slope = 0.02 }
[[programming]]
day = 1
sigma = { model = "table", conductances = [0, 60], values = [1, 2] }
"""
ENROLLED = b"""callbacks:
  - class_path: lightning_cim.VariationInjection
    init_args: {variation: {class_path: lightning_cim.Gaussian, init_args: {sigma: 0.1}}, seed: 3}
"""
PROGRESS = {
    "told": 1,
    "proposals": [{"design": {"kernel": 3}, "meta": {}}],
    "optimizer": {"state": [1, 2]},
    "seconds": {"ask": 0.1},
}
RUN = {"index": 0, "values": {"cim.sigma": 0.1}, "metrics": {"acc": 0.5}, "status": 0, "seconds": 1.5}


def _chips(layout, keys):
    rows = {key: {"acc": 0.5, "loss": 1 / 3} for key in keys}
    text = layout.prefix + json.dumps({"fingerprint": "abc", "seed": 1}) + "\n" + layout.header(rows[keys[0]])
    return (text + "".join(layout.line(key, row) for key, row in rows.items())).encode()


def _scores():
    row = ",".join(["1", "0", *["0.5"] * (len(HEADER) - 2)])
    return f"{PREFIX}{json.dumps({'fingerprint': 'abc'})}\n{','.join(HEADER)}\n{row}\n".encode()


def _trials():
    trials = [Trial({"kernel": 3}, {"acc_mean": 0.9}, 0.7, "ok", number=number) for number in range(2)]
    return "".join(trial.to_json() + "\n" for trial in trials).encode()


def _sweep(path, method):
    path.write_bytes(path.read_bytes().replace(b"method: grid", b"method: " + method, 1))
    sweep = SweepFile.read(path)
    return runs_in(sweep, 3)


def _progress(path):
    return TrialStore(path.parent, {}).progress()


def _enrolled(path):
    with mock.patch.dict(os.environ, {CONFIG: str(path)}):
        return for_lightning()


def checkpoint(**more):
    """A checkpoint as a file."""
    file = io.BytesIO()
    torch.save({"state_dict": torch.nn.Linear(2, 1).state_dict(), **more}, file)
    return file.getvalue()


def _read_back(path):
    return cim.TinySharedBlock(chip=path)


def kinds():
    """Every kind by its name."""
    return {
        "sweep, grid": Kind("a.yaml", SWEEP.replace(b"  model.lr", b"#"), partial(_sweep, method=b"grid")),
        "sweep, random": Kind("a.yaml", SWEEP, partial(_sweep, method=b"random")),
        "space": Kind("a.yaml", SPACE, read_space),
        "device": Kind("a.toml", DEVICE, cim.Measured.from_toml),
        "levels": Kind("a.csv", b"target_uS,reading_uS\n1,1.1\n1,0.9\n9,9\n9,8\n", cim.Measured.from_csv),
        "chips": Kind("a.csv", _chips(CHIPS, [0, 1]), cim.ChipResult.from_csv),
        "chips at times": Kind("a.csv", _chips(CHIP_TIMES, [(0, 1.0), (0, 9.0)]), cim.RetentionResult.from_csv),
        "scores": Kind("a.csv", _scores(), partial(ScoreJournal, about={"fingerprint": "abc"})),
        "trials": Kind("trials.jsonl", _trials(), read_trials),
        "progress": Kind("progress.json", json.dumps(PROGRESS).encode(), _progress),
        "run of a sweep": Kind("run.json", json.dumps(RUN).encode(), lambda path: finished(path.parent)),
        "replies": Kind("a.jsonl", b'{"reply": "{}", "prompt_tokens": 3}\n', ReplayBackend),
        "callbacks": Kind("a.yaml", ENROLLED, _enrolled),
        "checkpoint": Kind("a.ckpt", checkpoint(), lambda path: _checkpoint(str(path), True)),
        "read-back values": Kind("a.pt", checkpoint(), _read_back),
    }
