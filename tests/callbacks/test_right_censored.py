"""TRICE's search inside one fit, against plain loops written separately, scripted scores and the contract's checks."""

import copy
import gc
import importlib
import math
import os
import pickle
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.judging import Judge, Score, Yardstick
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.weight_sets import tensors_of
from lightning_cim.chip.interval import SETS, Interval
from lightning_cim.chip.population import draw_seed
from tests.callbacks.test_weight_sets import Calm
from tests.helpers.boring import FLAVOURS, Boring, assert_equal, checkpoint_of, data, fit, make, make_trainer, variant
from tests.helpers.checks import PLACES, check_clean_after_error, check_clean_after_fit, check_clean_for_others
from tests.helpers.checks import check_resume as resumes
from tests.helpers.digits import digits, digits_cnn, full_scale

ROOT = Path(__file__).parents[2]
SIGMA = cim.Gaussian(sigma=0.1)
SETTINGS = {"chips": 3, "monitor": "val/acc"}
FINE = {"chips": 3, "monitor": "val/loss"}  # shows the smallest difference between weights


def trice(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, **FINE)]}


def two_epochs_of_warm_up(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, warmup_epochs=2, deploy_mean_shift="add", **FINE)]}


def soon_one_set(flavour):
    return {"callbacks": [RightCensoredTraining(SIGMA, tolerance=0.18, **FINE)]}


@pytest.fixture
def script(monkeypatch):
    """Replaces the judge by scripted scores, one triple (left, mid, right) a selection."""

    def install(*triples):
        scores = iter([score for triple in triples for score in triple])
        monkeypatch.setattr(Judge, "__init__", lambda self, *_: None)
        monkeypatch.setattr(
            Judge, "scores", lambda self, sets: {name: Score(next(scores), "val/acc", False, {}) for name in sets}
        )

    return install


class Tiny:
    """Two linear layers without batch norm or dropout."""

    def __init__(self):
        super().__init__()
        self.net = tiny_net()

    def forward(self, x):
        return self.net(x.flatten(1))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.2, momentum=0.9)


def tiny_net():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def probe_class(flavour):
    class Probe(importlib.import_module(flavour).Callback):
        """Copies all three sets after each epoch's batches, and again after the selection."""

        def __init__(self, search):
            self.search, self.trained, self.selected = search, [], []

        def look(self, pl_module):
            sets = {"mid": pl_module, **{name: twin.module for name, twin in self.search._twins.items()}}
            return {name: {key: t.clone() for key, t in tensors_of(module).items()} for name, module in sets.items()}

        def on_validation_start(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.trained.append(self.look(pl_module))

        def on_validation_epoch_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                self.selected.append(self.look(pl_module))

    return Probe


def searched(search, base=Boring, flavour=FLAVOURS[0], **kwargs):
    probe = probe_class(flavour)(search)
    run = fit(flavour, lambda _: {"callbacks": [search]}, model=make(flavour, base), extra=[probe], **kwargs)
    return probe, run


def plain_loops(start, batches, sigmas_and_winners, seed, cutoff):
    """Each set by a loop of its own: draw, deviate, gradient at the deviated point, SGD with momentum by hand."""
    sets = {name: {key: value.clone() for key, value in start.items()} for name in SETS}
    momenta = {name: {key: torch.zeros_like(value) for key, value in start.items()} for name in SETS}
    streams = {"left": "train-left/0", "mid": "train/0", "right": "train-right/0"}
    net, index, trained = tiny_net(), 0, []
    for sigmas, winner in sigmas_and_winners:
        for x, y in batches:
            for name, sigma in zip(SETS, sigmas, strict=True):
                weights = sets[name]
                deviated = {}
                for key, value in weights.items():
                    deviated[key] = value.clone()
                    if key.endswith("weight"):
                        generator = torch.Generator().manual_seed(draw_seed(seed, streams[name], index, f"net.{key}"))
                        z = torch.randn(value.shape, generator=generator)
                        deviated[key] += sigma * value.abs().max() * torch.minimum(z, torch.tensor(cutoff))
                    deviated[key].requires_grad_()
                loss = nn.functional.cross_entropy(functional_call(net, deviated, x.flatten(1)), y)
                grads = dict(zip(deviated, torch.autograd.grad(loss, list(deviated.values())), strict=True))
                for key in weights:
                    momenta[name][key] = 0.9 * momenta[name][key] + grads[key]
                    weights[key] = weights[key] - 0.2 * momenta[name][key]
            index += 1
        trained.append({name: dict(weights) for name, weights in sets.items()})
        for name in SETS:
            sets[name] = {key: value.clone() for key, value in trained[-1][winner].items()}
    return trained


def test_three_plain_loops_give_the_same_weights(script):
    script((1, 2, 3), (3, 2, 1), (1, 1, 1))
    model = make(FLAVOURS[0], Tiny)
    start = {key.removeprefix("net."): value.clone() for key, value in tensors_of(model).items()}
    search = RightCensoredTraining(SIGMA, sigma_max=0.8, cutoff=1.0, seed=4)
    probe = probe_class(FLAVOURS[0])(search)
    loader = data(batches=6)
    fit(FLAVOURS[0], lambda _: {"callbacks": [search]}, model=model, train=loader, extra=[probe], max_epochs=3)
    sigmas_and_winners = [((0.2, 0.4, 0.6), "right"), ((0.35, 0.5, 0.65), "left"), ((0.3125, 0.425, 0.5375), "mid")]
    assert [row.sigmas for row in search.history] == [pytest.approx(sigmas) for sigmas, _ in sigmas_and_winners]
    expected = plain_loops(start, list(loader), sigmas_and_winners, seed=4, cutoff=1.0)
    assert len(probe.trained) == 3
    for found, wanted in zip(probe.trained, expected, strict=True):
        for name in SETS:
            for key, value in wanted[name].items():
                torch.testing.assert_close(found[name][f"net.{key}"], value, rtol=0, atol=1e-6)
    assert not torch.equal(expected[1]["left"]["0.weight"], expected[1]["mid"]["0.weight"])


def test_the_winner_is_copied_into_all_and_the_interval_follows(script):
    script((3, 2, 1), (1, 3, 2), (0, 1, 2))
    search = RightCensoredTraining(SIGMA, sigma_max=1.0)
    probe, _ = searched(search, max_epochs=3)
    winners = ("left", "mid", "right")
    assert [row.winner for row in search.history] == list(winners)
    assert [(row.low, row.high) for row in search.history] == [(0.0, 1.0), (0.0, 0.75), (0.1875, 0.5625)]
    assert search.interval == Interval(0.28125, 0.5625)
    for trained, selected, winner in zip(probe.trained, probe.selected, winners, strict=True):
        assert not torch.equal(trained["left"]["conv.weight"], trained["right"]["conv.weight"])
        assert not torch.equal(trained["left"]["norm.running_mean"], trained["right"]["norm.running_mean"])
        for name in SETS:
            assert_equal(selected[name], trained[winner], name)


def test_optimizer_states_are_not_copied(script):
    script((1, 2, 3))
    search = RightCensoredTraining(SIGMA)
    states = {}

    class Look(importlib.import_module(FLAVOURS[0]).Callback):
        def keep(self, trainer, when):
            optimizers = {"mid": trainer.optimizers[0], **{n: t._optimizer for n, t in search._twins.items()}}
            states[when] = {name: copy.deepcopy(one.state_dict()["state"]) for name, one in optimizers.items()}

        def on_validation_start(self, trainer, pl_module):
            self.keep(trainer, "before")

        def on_validation_end(self, trainer, pl_module):
            self.keep(trainer, "after")

    fit(FLAVOURS[0], lambda _: {"callbacks": [search, Look()]}, max_epochs=1, num_sanity_val_steps=0)
    assert_equal(states["after"], states["before"])
    buffers = [states["after"][name][0]["momentum_buffer"] for name in SETS]
    assert not torch.equal(buffers[0], buffers[1])
    assert not torch.equal(buffers[1], buffers[2])


def test_the_best_weights_are_restored(script):
    script((0, 5, 0), (0, 0, 9), (7, 0, 0))
    search = RightCensoredTraining(SIGMA)
    probe, run = searched(search, max_epochs=3)
    assert search.history.best is search.history[1]
    assert_equal(tensors_of(run.model), probe.trained[1]["right"])
    assert search._twins == {}


def test_one_set_trains_on_below_the_tolerance(script):
    script((0, 1, 0), (0, 1, 0), (5, 6, 7))
    search = RightCensoredTraining(SIGMA, sigma_max=0.4, tolerance=0.15)
    probe, run = searched(search, max_epochs=4, num_sanity_val_steps=0)
    assert [len(sets) for sets in probe.selected] == [3, 1, 1, 1]
    assert search.history[2].scores == (None, 5, None)
    assert (search.interval.low, search.interval.high) == pytest.approx((0.15, 0.25))
    assert run.trainer.callback_metrics["cim/sigma"] == pytest.approx(0.2)


def losses(callback, flavour=FLAVOURS[0], **kwargs):
    return fit(flavour, lambda _: {"callbacks": [callback]}, **kwargs).model.losses


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_cut_one_set_is_gaussian_injection_bit_for_bit(flavour):
    """E7, for training."""
    search = RightCensoredTraining(
        SIGMA, sigma_max=0.2, cutoff=math.inf, tolerance=1.0, refresh_batchnorm=False, seed=3, **SETTINGS
    )
    assert losses(search, flavour) == losses(cim.VariationInjection(cim.Gaussian(sigma=0.1), seed=3), flavour)


def test_the_other_sets_do_not_disturb_the_users_module():
    search = RightCensoredTraining(SIGMA, warmup_epochs=2, refresh_batchnorm=False, seed=3, **SETTINGS)
    plain = cim.VariationInjection(cim.RightCensoredGaussian(sigma=0.1), seed=3)
    train = data(shuffle=True)
    assert losses(search, train=train, max_epochs=3)[:8] == losses(plain, train=train, max_epochs=3)[:8]


def test_warm_up_scores_and_does_not_select():
    search = RightCensoredTraining(SIGMA, warmup_epochs=1, **SETTINGS)
    probe, run = searched(search, max_epochs=2)
    first, second = search.history
    assert first.winner is None
    assert first.scores[0] is first.scores[2] is None
    assert first.scores[1] == first.score
    assert not torch.equal(probe.selected[0]["left"]["conv.weight"], probe.selected[0]["right"]["conv.weight"])
    assert (second.low, second.high) == (first.low, first.high)
    assert second.winner in SETS
    assert None not in second.scores
    assert run.trainer.callback_metrics["cim/acc_kpp"] == pytest.approx(second.score)


def test_several_metrics_to_choose_from_are_refused():
    class Two(Boring):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val/f1", 0.5, batch_size=1)

    with pytest.raises(MisconfigurationException, match=r"monitor=None: which of these .*val/acc.*val/f1"):
        fit(FLAVOURS[0], lambda _: {"callbacks": [RightCensoredTraining(SIGMA, chips=1)]}, model=make(FLAVOURS[0], Two))


def test_mean_shift_is_added_to_what_is_restored(script):
    script((0, 1, 0), (0, 0, 9))
    search = RightCensoredTraining(SIGMA, sigma_max=0.4, cutoff=0.5, deploy_mean_shift="add")
    probe, run = searched(search)
    trained = probe.trained[1]["right"]["linear.weight"]
    shift = cim.RightCensoredGaussian(search.history[1].sigmas[2], cutoff=0.5).mean * trained.abs().max()
    torch.testing.assert_close(run.model.linear.weight.detach(), trained + shift)
    assert torch.equal(probe.selected[1]["mid"]["linear.weight"], trained)


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


class Digits:
    """The digits net as a LightningModule."""

    def __init__(self, epochs):
        super().__init__()
        self.net, self.epochs = digits_cnn(), epochs

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch, batch_idx):
        self.log("val/acc", (self.net(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=3e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.epochs)]


def digits_run(callback, seed, epochs):
    train, val, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    model = make(FLAVOURS[0], Digits, seed=seed, epochs=epochs)
    trainer = make_trainer(FLAVOURS[0], callbacks=[callback], max_epochs=epochs, num_sanity_val_steps=0)
    trainer.fit(model, DataLoader(train, 64, shuffle=True, generator=generator), DataLoader(val, 297))
    return model, trainer


@pytest.mark.slow
def test_s5_the_search_on_digits():
    """The interval shrinks, and the selected KPP is not more than 3 points below a run at the deployed sigma."""
    deployment, epochs = full_scale(0.3), 8
    gaps, shrunken = [], []
    for seed in range(3):
        search = RightCensoredTraining(deployment, chips=20, cutoff=2.0, seed=seed, warmup_epochs=1)
        digits_run(search, seed, epochs)
        fixed = cim.VariationInjection(cim.RightCensoredGaussian(deployment.std, cutoff=2.0), seed=seed)
        model, trainer = digits_run(fixed, seed, epochs)
        judge = Judge(trainer, model, Yardstick(deployment, chips=20, seed=seed))
        reference = judge.scores({"mid": tensors_of(model)})["mid"].value
        gaps.append(search.history.best.score - reference)
        shrunken.append(search.interval.width / (2 * deployment.std))
    assert max(shrunken) <= 0.75 ** (epochs - 1)
    assert sorted(gaps)[1] >= -0.03
