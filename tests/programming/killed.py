"""A programming run in a process that is really killed; run as ``python -m tests.programming.killed CSV PLACE``."""

import sys
import time
from pathlib import Path

import lightning_cim as cim
from lightning_cim._journal import Journal, Layout
from lightning_cim.programming.program import program
from tests.evaluation.toys import trainer
from tests.programming.toys import VARIATION, batches, net

CHIPS, POINTS = 4, 5
PLACES = ("sensitivity", "scores", "line", "file", "workers", "ranks")
"""While the sensitivity is computed; between scores; in the middle of a line, and of the whole file at the end; while
two workers, and two ranks, program chips."""


class Announcing:
    """Batches that take their time, and leave a mark when they are read."""

    def __init__(self, loader, mark, seconds):
        self.loader, self.mark, self.seconds = loader, mark, seconds

    def __iter__(self):
        for batch in self.loader:
            self.mark.touch()
            time.sleep(self.seconds)
            yield batch


class Slow(type(net())):
    """Each pass takes a while."""

    def forward(self, inputs):
        time.sleep(0.03)
        return super().forward(inputs)


def programmed(csv=None, model=None, data=None, **options):
    """The run; the kill must not change its numbers."""
    return program(
        net() if model is None else model,
        batches() if data is None else data,
        VARIATION,
        validation=batches(seed=1),
        test=batches(64, seed=5),
        verify_fraction=0.5,
        granularity=0.125,
        simulate=cim.WriteVerify(step=0.02),
        chips=CHIPS,
        csv=csv,
        progress=False,
        **options,
    )


def slow(model):
    model.__class__ = Slow
    return model


def mark_of(csv):
    """Where a run says that it has come to its place."""
    return Path(f"{csv}.mark")


def _half_a_line(journal, key, row):
    if len(journal.rows) == 6:
        with journal.path.open("a") as file:
            file.write(journal.layout.line(key, row)[:-9])
        mark_of(journal.path).touch()
        time.sleep(60)
    _add(journal, key, row)


def _half_a_file(layout, path, about, rows):
    if len(rows) == CHIPS * POINTS:
        path.with_name(path.name + ".part").write_text(layout.prefix + "{")
        mark_of(path).touch()
        time.sleep(60)
    _write(layout, path, about, rows)


_add, _write = Journal.add, Layout.write


def main(csv, place):
    if place == "sensitivity":
        programmed(csv, data=Announcing(batches(), mark_of(csv), seconds=10))
    elif place == "line":
        Journal.add = _half_a_line
        programmed(csv)
    elif place == "file":
        Layout.write = _half_a_file
        programmed(csv)
    else:
        ranks = trainer(strategy="ddp", devices=2) if place == "ranks" else None
        programmed(csv, slow(net()), trainer=ranks, workers=2 if place == "workers" else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
