"""What two processes do; run as ``python -m tests.ddp.job FOLDER FLAVOUR STRATEGY``, results in FOLDER/rankN.pt.

Weights, dropout and data order are seeded differently on each rank on purpose.
"""

import os
import sys
import warnings
from pathlib import Path

import torch

import lightning_cim as cim
from lightning_cim.chip.shared_block import shared_block_of
from tests.ddp.scenarios import CHIPS, SIGMA, TEST, WITH_PRECISION, evaluated, only_monte_carlo
from tests.helpers.boring import fit, make, make_trainer
from tests.helpers.broken import AddThenSubtract

RANK = int(os.environ.get("LOCAL_RANK", 0))
TWO = {"devices": 2}


class OtherNoiseOnEachRank(AddThenSubtract):
    """The negative control with rank-specific noise, whose rounding then pulls the ranks apart."""

    def on_train_start(self, trainer, pl_module):
        torch.manual_seed(1000 + RANK)


def main(folder, flavour, strategy):
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = {}

    model = make(flavour, seed=RANK)
    trainer = make_trainer(flavour, strategy=strategy, **TWO)
    found["no fit"] = evaluated(trainer, model)
    found["no fit, one chip"] = evaluated(trainer, model, chips=1)
    found["no fit, given back"] = model.state_dict()
    found["no fit, batches"] = len(model.seen_in_test)

    def train(callbacks, strategy="ddp", **kwargs):
        settings = {"model": make(flavour, seed=RANK), "seed": RANK, "strategy": strategy, **TWO, **kwargs}
        return fit(flavour, lambda _: {"callbacks": callbacks}, **settings)

    # Without validation nothing has made the ranks' batch-norm statistics equal when the chips are evaluated.
    run = train([] if strategy == "cim_ddp" else [cim.VariationInjection(SIGMA)], strategy, limit_val_batches=0)
    found["fit"] = seen(run)
    found["after fit"] = evaluated(run.trainer, run.model, csv=Path(folder) / "chips.csv")
    found["after fit, files"] = sorted(path.name for path in Path(folder).glob("chips.csv*")) if RANK == 0 else None
    found["after fit, csv"] = cim.ChipResult.from_csv(Path(folder) / "chips.csv") if RANK == 0 else None
    found["after fit, state"] = run.model.state_dict()

    found["same chips"] = seen(train([cim.VariationInjection(SIGMA, same_across_ranks=True)]))
    found["broken"] = seen(train([OtherNoiseOnEachRank(1.0)]))

    for mode in ("ovf", "irs"):
        feedback = cim.NegativeFeedback(SIGMA, mode=mode, beta=0.1, stages=["norm"])
        found[mode] = seen(train([feedback]))
        found[f"{mode}, heads"] = feedback.state_dict().get("heads")

    found["correctnet"] = seen(train([cim.CorrectNetReg(strength=0.01)]))
    block = cim.TinySharedBlock(SIGMA, lr=0.1)
    run = train([block])
    found["block"] = dict(shared_block_of(run.model).state_dict())
    found["block, backbone"] = seen(run)["parameters"]
    found["block, report"] = (block.report.clean, block.report.before, block.report.after)

    monte_carlo = only_monte_carlo()
    run = train([monte_carlo])
    found["monte carlo"] = {name: list(monte_carlo.result.of(name)) for name in monte_carlo.result.metrics}
    found["monte carlo, logged"] = {name: value.item() for name, value in run.trainer.callback_metrics.items()}
    found["monte carlo, state"] = run.model.state_dict()

    precision = cim.MixedPrecision(**WITH_PRECISION)
    run = train([precision])
    found["precision"] = evaluated(run.trainer, run.model)
    found["precision, state"] = run.model.state_dict()
    found["precision, ranges"] = precision.state_dict()

    torch.save(found, Path(folder) / f"rank{RANK}.pt")


def seen(run):
    parameters = {name: parameter.detach() for name, parameter in run.model.named_parameters()}
    return {"seen": run.model.seen, "parameters": parameters}


if __name__ == "__main__":
    assert CHIPS % 2
    assert len(TEST)
    main(*sys.argv[1:])
