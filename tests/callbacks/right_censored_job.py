"""What two processes do; run as ``python -m tests.callbacks.right_censored_job FOLDER FLAVOUR``."""

import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

import lightning_cim as cim
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.weight_sets import tensors_of
from tests.callbacks.right_censored_toys import SIGMA, probe_class
from tests.callbacks.test_weight_sets import Calm, SameChips
from tests.helpers.boring import data, fit, make

RANK = int(os.environ.get("LOCAL_RANK", 0))


def main(folder, flavour):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    settings = {"devices": 2, "strategy": "ddp", "max_epochs": 2, "train": data(batches=6)}

    same = SameChips(cim.RightCensoredGaussian(sigma=0.1), same_across_ranks=True)
    run = fit(flavour, lambda _: {"callbacks": [same]}, model=make(flavour, Calm, seed=RANK), **settings)
    found = {"module": weights(run.model), "twin": weights(same.twin.module)}

    search = RightCensoredTraining(SIGMA, chips=3, monitor="val/acc")
    probe = probe_class(flavour)(search)
    run = fit(flavour, lambda _: {"callbacks": [search]}, model=make(flavour, seed=RANK), extra=[probe], **settings)
    found["trained"], found["selected"], found["restored"] = probe.trained, probe.selected, tensors_of(run.model)
    found["history"] = [asdict(row) for row in search.history]
    found["batches"] = run.model.losses
    torch.save(found, Path(folder) / f"rank{RANK}.pt")


def weights(model):
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


if __name__ == "__main__":
    main(*sys.argv[1:])
