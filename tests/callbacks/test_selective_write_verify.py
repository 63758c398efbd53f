"""The callback against :func:`program` on the trained module, in both packages."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import CSVLogger

import lightning_cim as cim
from lightning_cim.callbacks.selective_write_verify import SelectiveWriteVerify
from lightning_cim.programming.program import program
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer
from tests.helpers.boring import FLAVOURS, Resumable, checkpoint_of, data, fit, make
from tests.helpers.checks import check_invisible

ROOT = Path(__file__).parents[2]
OPTIONS = {"verify_fraction": 0.5, "granularity": 0.25, "chips": 3}


def same(first, second):
    assert torch.equal(first.ranking.order, second.ranking.order)
    assert np.array_equal(first.curve.scores, second.curve.scores)
    assert first.curve.ideal == second.curve.ideal
    assert np.array_equal(first.stops, second.stops)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_the_report_is_that_of_program_on_the_trained_module(flavour):
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    run = fit(flavour, extra=[callback])
    alone = program(run.model, data(), VARIATION, validation=data(2, seed=2), progress=False, **OPTIONS)
    same(callback.report, alone)
    assert "scored on: validation data" in str(callback.report)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_run_with_it_is_bit_identical(flavour):
    check_invisible(lambda _: {"callbacks": [SelectiveWriteVerify(VARIATION, **OPTIONS)]}, flavour)


def test_what_is_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    callback = SelectiveWriteVerify(
        VARIATION, max_drop=0.01, granularity=0.25, chips=3, csv=str(tmp_path / "chips.csv")
    )
    trainer(callbacks=[callback], logger=logger).fit(Classifier(), loader(), loader())
    with Path(logger.log_dir, "metrics.csv").open() as file:
        *_, row = csv.DictReader(file)
    logged = {name: float(value) for name, value in row.items() if name.startswith("cim/program")}
    report = callback.report
    assert logged == pytest.approx(
        {
            "cim/program_fraction": report.fraction,
            "cim/program_nwc": report.nwc.verify_only,
            "cim/program_nwc_total": report.nwc.total,
            "cim/program_accuracy": report.score,
            "cim/program_met": report.met.mean(),
        }
    )
    assert (tmp_path / "chips.csv").read_text().count("\n") >= 2 + 3


def test_masks_and_precision_of_other_callbacks_apply():
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(8, activation_bits=8)
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    model = Classifier()
    trainer(callbacks=[sparse, precise, cim.VariationInjection(cim.Gaussian(0.1)), callback]).fit(
        model, loader(), loader()
    )
    report = callback.report
    assert report.ranking.weights == 24
    for name, mask in report.verified().items():
        assert not mask[~sparse.masks[name]].any()
    # the ideal is that of the pruned and quantised network, as the Trainer validates it
    (validated,) = trainer(callbacks=[sparse, precise]).validate(model, loader(), verbose=False)
    assert report.curve.ideal == pytest.approx(validated["val/acc"], abs=1e-6)


def test_test_data_is_not_touched():
    class Data:
        def __iter__(self):
            raise AssertionError("test data was read")

    class Module(Classifier):
        def test_dataloader(self):
            return Data()

    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    trainer(callbacks=[callback]).fit(Module(), loader(), loader())
    assert callback.report.test is None


def test_without_validation_the_training_data_scores():
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    trainer(callbacks=[callback], limit_val_batches=0).fit(Classifier(), loader())
    assert "scored on: training data" in str(callback.report)


@pytest.mark.parametrize(("limit", "samples"), [(2, 32), (0.5, 16), (1.0, 48)])
def test_the_trainers_limits_hold(limit, samples):
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    trainer(callbacks=[callback], limit_train_batches=limit).fit(Classifier(), loader(), loader())
    assert f"sensitivity: recursion, {samples} samples" in str(callback.report)


def test_several_validation_loaders_are_scored_together():
    callback, model = SelectiveWriteVerify(VARIATION, **OPTIONS), TwoLoaders()
    trainer(callbacks=[callback]).fit(model, loader(), [loader(), loader(batch_size=4)])
    alone = program(model, loader(), VARIATION, validation=loader(), progress=False, **OPTIONS)
    assert callback.report.curve.scores == pytest.approx(alone.curve.scores)


class TwoLoaders(Classifier):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)


class Pairs(Classifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch["a"], batch_idx)


def test_a_collection_of_training_loaders_is_refused():
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS)
    with pytest.raises(MisconfigurationException, match="one training loader"):
        trainer(callbacks=[callback]).fit(Pairs(), {"a": loader(), "b": loader()}, loader())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "SelectiveWriteVerify: give either verify_fraction"),
        ({"verify_fraction": 2.0}, "verify_fraction is a share"),
        ({"max_drop": 0.1, "chips": 0}, "chips must be at least 1"),
        ({"max_drop": 0.1, "method": "best"}, "method must be one of"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(MisconfigurationException, match=message):
        SelectiveWriteVerify(VARIATION, **options)


def test_a_mapping_that_fits_nothing_is_refused():
    callback = SelectiveWriteVerify(VARIATION, **OPTIONS, mapping=cim.Mapping(targets=["conv"]))
    with pytest.raises(MisconfigurationException, match=r"SelectiveWriteVerify: .*maps no parameter of Classifier"):
        trainer(callbacks=[callback]).fit(Classifier(), loader(), loader())


def test_a_strategy_that_shards_is_refused():
    class FSDPStrategy:
        pass

    class Sharding:
        strategy = FSDPStrategy()

    with pytest.raises(MisconfigurationException, match="SelectiveWriteVerify does not work with FSDPStrategy"):
        SelectiveWriteVerify(VARIATION, **OPTIONS).setup(Sharding(), None, "fit")


JOB = """
import os, sys, warnings
import torch
from lightning_cim.callbacks.selective_write_verify import SelectiveWriteVerify
from tests.callbacks.test_selective_write_verify import OPTIONS, VARIATION
from tests.helpers.boring import fit, make

warnings.filterwarnings("ignore")
torch.set_num_threads(1)
rank = int(os.environ.get("LOCAL_RANK", 0))
callback = SelectiveWriteVerify(VARIATION, **OPTIONS, csv=sys.argv[1] + "/chips.csv")
# Without validation nothing has made the ranks' batch-norm statistics equal.
run = fit(sys.argv[2], model=make(sys.argv[2], seed=rank), seed=rank, strategy="ddp", devices=2, limit_val_batches=0,
          extra=[callback])
torch.save({"report": callback.report, "state": run.model.state_dict()}, f"{sys.argv[1]}/rank{rank}.pt")
"""


@pytest.mark.slow
def test_all_ranks_have_the_report_of_one_process(tmp_path):
    flavour = FLAVOURS[0]
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    script = tmp_path / "job.py"
    script.write_text(JOB)
    process = subprocess.run(
        [sys.executable, str(script), str(tmp_path), flavour],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    same(first["report"], second["report"])
    buffers = [found["state"]["norm.running_mean"] for found in (first, second)]
    assert not torch.equal(*buffers)  # each rank has its own back
    model = make(flavour)
    model.load_state_dict(first["state"])
    same(first["report"], program(model, data(), VARIATION, progress=False, **OPTIONS))
    assert (tmp_path / "chips.csv").exists()


def test_a_resumed_run_programs_the_same(tmp_path):
    flavour = FLAVOURS[0]
    whole = SelectiveWriteVerify(VARIATION, **OPTIONS)
    run = fit(flavour, extra=[whole], model=make(flavour, reseed=True), train=Resumable(data()))
    half = fit(flavour, model=make(flavour, reseed=True), train=Resumable(data()), max_epochs=1)
    path = tmp_path / "half.ckpt"
    torch.save(checkpoint_of(half.trainer), path)
    resumed = SelectiveWriteVerify(VARIATION, **OPTIONS)
    again = fit(
        flavour, extra=[resumed], model=make(flavour, reseed=True), train=Resumable(data()), ckpt_path=str(path)
    )
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), again.model.parameters(), strict=True))
    same(whole.report, resumed.report)
