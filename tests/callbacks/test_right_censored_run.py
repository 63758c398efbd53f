"""TRICE's search as a part of a run: resuming, checkpoints, cleaning up, other callbacks, several processes."""

import copy
import gc
import importlib
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.weight_sets import tensors_of
from lightning_cim.chip.interval import SETS, Interval
from tests.callbacks.right_censored_toys import SETTINGS, SIGMA, Tiny, probe_class
from tests.callbacks.test_weight_sets import Calm
from tests.helpers.boring import FLAVOURS, Boring, assert_equal, checkpoint_of, data, fit, make, variant
from tests.helpers.checks import PLACES, check_clean_after_error, check_clean_after_fit, check_clean_for_others
from tests.helpers.checks import check_resume as resumes

ROOT = Path(__file__).parents[2]
FINE = {"chips": 3, "monitor": "val/loss"}  # shows the smallest difference between weights


def trice(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, **FINE)]}


def two_epochs_of_warm_up(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, warmup_epochs=2, deploy_mean_shift="add", **FINE)]}


def soon_one_set(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, tolerance=0.18, **FINE)]}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [trice, two_epochs_of_warm_up, soon_one_set])
def test_resumed_run_is_bit_identical(arrange, flavour, tmp_path):
    resumes(arrange, flavour, tmp_path)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_checkpoints_of_the_model_are_those_of_a_plain_run(flavour):
    search, plain = fit(flavour, trice), fit(flavour)
    for weights_only in (False, True):
        found, expected = (checkpoint_of(run.trainer, weights_only) for run in (search, plain))
        assert list(found["state_dict"]) == list(expected["state_dict"])
        assert list(found) == list(expected)
    fresh = variant(flavour)()
    fresh.load_state_dict(found["state_dict"], strict=True)


def test_checkpoints_hold_the_winner_and_load_as_plain_data(tmp_path):
    flavour = FLAVOURS[0]
    saver = importlib.import_module(f"{flavour}.callbacks").ModelCheckpoint(
        tmp_path, "{epoch}", monitor="cim/acc_kpp", mode="max", save_top_k=-1
    )
    search = RightCensoredTraining(SIGMA, warmup_epochs=1, **SETTINGS)
    probe = probe_class(flavour)(search)
    fit(
        flavour,
        lambda _: {"callbacks": [search, probe, saver]},
        max_epochs=2,
        enable_checkpointing=True,
    )
    for epoch in range(2):
        saved = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert_equal(dict(saved["state_dict"]), {key: probe.selected[epoch]["mid"][key] for key in saved["state_dict"]})
    assert saver.best_model_score == pytest.approx(search.history.best.score)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_clean_after_fit_and_for_others(flavour):
    check_clean_after_fit(trice, flavour)
    check_clean_for_others(trice, flavour)


@pytest.mark.parametrize("place", PLACES)
def test_clean_after_an_error(place):
    check_clean_after_error(trice, FLAVOURS[0], place, RuntimeError("boom"))


def test_nothing_leaks(monkeypatch):
    search = RightCensoredTraining(SIGMA, **SETTINGS)
    held = []

    class Keep(importlib.import_module(FLAVOURS[0]).Callback):
        def on_train_start(self, trainer, pl_module):
            held.extend(weakref.ref(twin.module) for twin in search._twins.values())
            held.append(weakref.ref(trainer))

    run = fit(FLAVOURS[0], lambda _: {"callbacks": [search, Keep()]}, max_epochs=1)
    assert len(held) == 3
    model = copy.deepcopy(run.model)
    assert_equal(tensors_of(model), tensors_of(run.model))
    monkeypatch.setattr("tests.helpers.boring." + type(run.model).__name__, type(run.model), raising=False)
    assert_equal(tensors_of(pickle.loads(pickle.dumps(run.model))), tensors_of(run.model))
    run.model.trainer = None
    del run
    gc.collect()
    assert [reference() for reference in held] == [None] * 3


def test_a_second_fit_searches_from_the_beginning():
    search = RightCensoredTraining(SIGMA, **SETTINGS)
    fit(FLAVOURS[0], lambda _: {"callbacks": [search]})
    assert search.interval != Interval(0.0, 0.2)
    fit(FLAVOURS[0], lambda _: {"callbacks": [search]}, max_epochs=1)
    assert len(search.history) == 1
    assert (search.history[0].low, search.history[0].high) == (0.0, 0.2)


def test_a_fit_that_is_extended_goes_on(tmp_path):
    """From a checkpoint that was written after the fit, when the other sets were gone."""
    first = RightCensoredTraining(SIGMA, **SETTINGS)
    run = fit(FLAVOURS[0], lambda _: {"callbacks": [first]}, model=make(FLAVOURS[0], Calm, scheduler="epoch"))
    run.trainer.save_checkpoint(tmp_path / "last.ckpt")
    rates = []

    class Look(importlib.import_module(FLAVOURS[0]).Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            optimizers = [trainer.optimizers[0], *(twin._optimizer for twin in search._twins.values())]
            rates.append([one.param_groups[0]["lr"] for one in optimizers])

    search = RightCensoredTraining(SIGMA, **SETTINGS)
    model = make(FLAVOURS[0], Calm, scheduler="epoch", seed=5)
    arranged = {"callbacks": [search, Look()], "max_epochs": 4}
    fit(FLAVOURS[0], lambda _: arranged, model=model, ckpt_path=tmp_path / "last.ckpt")
    assert rates == [[0.025] * 3, [0.0125] * 3]
    assert search.history.rows[:2] == first.history.rows
    assert len(search.history) == 4
    assert (search.history[2].low, search.history[2].high) == (first.interval.low, first.interval.high)


def test_a_loader_with_persistent_workers_is_not_disturbed():
    def loader(batches, seed):
        return DataLoader(data(batches, seed=seed).dataset, batch_size=4, num_workers=1, persistent_workers=True)

    runs = []
    for loaders in ((loader(4, 1), loader(2, 2)), (data(4, seed=1), data(2, seed=2))):
        search = RightCensoredTraining(SIGMA, refresh_batchnorm=False, **SETTINGS)
        settings = {"max_epochs": 1, "val_check_interval": 2, "num_sanity_val_steps": 0}
        settings |= {"train": loaders[0], "val": loaders[1]}
        run = fit(FLAVOURS[0], lambda _, s=search: {"callbacks": [s]}, model=make(FLAVOURS[0], Tiny), **settings)
        runs.append((search.history.rows, tensors_of(run.model)))
    assert len(runs[0][0]) == 2
    assert_equal(*(rows for rows, _ in runs))
    assert_equal(*(weights for _, weights in runs))


def test_all_sets_compute_with_the_hardware_that_other_callbacks_simulate():
    levels = []

    class Quantised(Tiny):
        def training_step(self, batch, batch_idx):
            rows = self.net[0].weight.detach().round(decimals=6)  # without the deviation, which may not be null
            levels.append(max(len(row.unique()) for row in rows))
            return super().training_step(batch, batch_idx)

    def run(*callbacks):
        levels.clear()
        fit(FLAVOURS[0], lambda _: {"callbacks": callbacks}, model=make(FLAVOURS[0], Quantised), max_epochs=1)
        return set(levels), len(levels)

    def search():
        return RightCensoredTraining(SIGMA, sigma_max=1e-12, tolerance=1e-15, chips=1)

    quantised, steps = run(search(), cim.MixedPrecision(weight_bits=2, activation_bits=4))
    assert steps == 3 * 4  # three sets, four batches; no batch norm to refresh
    assert max(quantised) <= 4
    assert run(search()) == ({16}, 3 * 4)


@pytest.mark.parametrize("interval", [1, 2])
def test_accumulated_gradients_and_schedules_run_through(interval):
    search = RightCensoredTraining(SIGMA, **SETTINGS)
    fit(
        FLAVOURS[0],
        lambda _: {"callbacks": [search]},
        accumulate_grad_batches=2,
        gradient_clip_val=0.5,
        precision="bf16-mixed",
        check_val_every_n_epoch=interval,
    )
    assert len(search.history) == 2 // interval


class Manual(Boring):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class Iterates(Boring):
    def training_step(self, dataloader_iter):
        raise AssertionError


class TestRefusals:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"deployment": 0.1}, "deployment must be a Variation"),
            ({"sigma_max": 0.0}, "0 <= low < high"),
            ({"sigma_min": 0.3, "sigma_max": 0.2}, "0 <= low < high"),
            ({"cutoff": 0.0}, "cutoff is in units of sigma"),
            ({"k": 0.0}, "k lie between 0 and 100"),
            ({"chips": 0}, "chips must be at least 1"),
            ({"mode": "best"}, "mode must be"),
            ({"warmup_epochs": -1}, "warmup_epochs must be at least 0"),
            ({"tolerance": 0.0}, "tolerance above 0"),
            ({"deploy_mean_shift": "sub"}, "deploy_mean_shift must be"),
            ({"mapping": "conv"}, "mapping must be a Mapping"),
        ],
    )
    def test_arguments(self, arguments, message):
        with pytest.raises(MisconfigurationException, match=message):
            RightCensoredTraining(**{"deployment": SIGMA, **arguments})

    @pytest.mark.parametrize("flavour", FLAVOURS)
    @pytest.mark.parametrize(
        ("base", "settings", "message"),
        [
            (Boring, {"limit_val_batches": 0}, "no validation loop"),
            (Manual, {}, "manual optimisation"),
            (Iterates, {}, "dataloader_iter"),
        ],
    )
    def test_runs(self, base, settings, message, flavour):
        model = make(flavour, base)
        with pytest.raises(MisconfigurationException, match=message):
            fit(flavour, trice, model=model, **settings)
        assert model.losses == []

    def test_a_gradient_scaler(self):
        plugin = importlib.import_module(f"{FLAVOURS[0]}.plugins").MixedPrecision(
            "16-mixed", "cuda", scaler=torch.amp.GradScaler("cpu")
        )
        with pytest.raises(MisconfigurationException, match=r"gradient scaler.*bf16-mixed"):
            fit(FLAVOURS[0], trice, plugins=[plugin])

    def test_a_compiled_module(self):
        with pytest.raises(MisconfigurationException, match="compiled LightningModule"):
            fit(FLAVOURS[0], trice, model=torch.compile(make(FLAVOURS[0]), backend="eager"))

    def test_averages_of_weights(self):
        swa = importlib.import_module(f"{FLAVOURS[0]}.callbacks").StochasticWeightAveraging(0.1)
        with pytest.raises(MisconfigurationException, match="StochasticWeightAveraging: averages"):
            fit(FLAVOURS[0], trice, extra=[swa])

    def test_warm_up_without_end(self):
        search = RightCensoredTraining(SIGMA, warmup_epochs=2)
        with pytest.raises(MisconfigurationException, match="leave no epoch to select in"):
            fit(FLAVOURS[0], lambda _: {"callbacks": [search]}, max_epochs=2)

    def test_another_injection(self):
        with pytest.raises(MisconfigurationException, match="already"):
            fit(FLAVOURS[0], trice, extra=[cim.VariationInjection(SIGMA)])


@pytest.mark.slow
def test_under_ddp(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("LOCAL_RANK", "WORLD_SIZE")}
    process = subprocess.run(
        [sys.executable, "-m", "tests.callbacks.right_censored_job", str(tmp_path), FLAVOURS[0]],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in range(2))
    torch.testing.assert_close(first["twin"], first["module"], rtol=1e-5, atol=1e-6)
    assert_equal(first["twin"], second["twin"])
    assert_equal(first["history"], second["history"])
    for before, after in zip(first["trained"], second["trained"], strict=True):
        for name in SETS:
            weights = {key: value for key, value in before[name].items() if "running" not in key}
            assert_equal(weights, {key: after[name][key] for key in weights}, name)
        assert not torch.equal(before["left"]["conv.weight"], before["right"]["conv.weight"])
    assert_equal(first["selected"], second["selected"])
    assert_equal(first["restored"], second["restored"])
    assert first["batches"] != second["batches"]
