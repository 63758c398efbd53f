"""Chips shared by ranks: ``python -m tests.ddp.sharing FOLDER WHAT DEVICES NODES``, results in FOLDER/rankN.pt."""

import os
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
import torchmetrics

import lightning_cim as cim
from lightning_cim.programming.program import program
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer
from tests.programming.toys import batches, net


class Measuring(Classifier):
    """Its metrics add up over ranks where there are any, which would mix different chips."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.Accuracy(task="binary")

    def test_step(self, batch, batch_idx):
        logits = self(batch[0])
        self.accuracy(logits.argmax(1), batch[1])
        self.log("test/acc", self.accuracy)
        loss = torch.nn.functional.cross_entropy(logits, batch[1])
        self.log("test/loss", loss, batch_size=len(batch[1]), sync_dist=True)


class Failing(Classifier):
    """Fails on one rank, after some chips."""

    def __init__(self, rank, how):
        super().__init__()
        self.is_bad, self.how, self.passes = rank == 1, how, 0

    def on_test_epoch_end(self):
        self.passes += 1
        time.sleep(0.1)
        if self.is_bad and self.passes == 2:
            self.how()


def raise_error():
    raise ZeroDivisionError("no luck on this machine")


def kill_myself():
    os.kill(os.getpid(), signal.SIGKILL)


class BadData(list):
    """Batches that one rank cannot read."""

    def __iter__(self):
        raise OSError("no such file on this machine")


def chips(over, number=5, csv=None, model=None):
    """Metrics of every chip."""
    result = cim.evaluate_chips(
        over, model or Measuring(), loader(), variation=VARIATION, chips=number, k=90, csv=csv, progress=False
    )
    return {name: list(result.of(name)) for name in result.metrics}


RUNS = {
    "fraction": {"verify_fraction": 0.5, "granularity": 0.125, "chips": 5, "simulate": True},
    "budget": {"max_drop": 0.03, "granularity": 0.125, "chips": 5},
    "one chip": {"verify_fraction": 0.25, "granularity": 0.25, "chips": 1},
}


def programmed(over, run, model=None, csv=None, data=None, **options):
    """Everything that a report says."""
    model = net() if model is None else model
    report = program(
        model,
        batches() if data is None else data,
        cim.Gaussian(0.4),
        validation=batches(seed=1),
        test=batches(64, seed=5),
        trainer=over,
        csv=csv,
        progress=False,
        **RUNS[run],
        **options,
    )
    numbers = {name: getattr(report.curve, name) for name in ("fraction", "nwc_verify_only", "nwc_total", "scores")}
    numbers |= {"ideal": report.curve.ideal, "stops": report.stops, "order": report.ranking.order, "met": report.met}
    return {**numbers, "test": report.test.scores, "table": str(report), "weights": report.weights(net(), 0)}


def share(folder, over):
    """What ranks find; their weights differ before and after."""
    found = {f"chips {number}": chips(over, number) for number in (1, 5)}
    found["chips, again"] = chips(over, 5, csv=folder / "chips.csv")
    model = net()
    with torch.no_grad():
        model[0].bias += over.global_rank
    for run in RUNS:
        found[run] = programmed(over, run, model, csv=folder / f"{run}.csv")
    found["given back"] = torch.equal(model[0].bias, net()[0].bias + over.global_rank)
    found["in two workers"] = programmed(over, "budget", workers=2)
    return found


def main(folder, what, devices, nodes):
    warnings.filterwarnings("ignore")
    folder, over = Path(folder), trainer(strategy="cim_ddp", devices=int(devices), num_nodes=int(nodes))
    rank = over.global_rank
    if what == "share":
        torch.save(share(folder, over), folder / f"rank{rank}.pt")
    elif what == "raise":
        chips(over, 6, folder / "chips.csv", Failing(rank, raise_error))
    elif what == "die":
        chips(over, 6, folder / "chips.csv", Failing(rank, kill_myself))
    elif what == "program":
        programmed(over, "fraction", data=BadData() if rank == 1 else None)


if __name__ == "__main__":
    main(*sys.argv[1:])
