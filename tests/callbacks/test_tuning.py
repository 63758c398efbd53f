"""Searching sigma and cut-off with optuna: deterministic, resumable, on validation data only."""

import builtins
import csv
import math

import pytest
import torch

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.judging import Judge, Yardstick
from lightning_cim.callbacks.tuning import Trial, TuningResult, tune_right_censored
from lightning_cim.callbacks.weight_sets import tensors_of
from tests.helpers.boring import FLAVOURS, Boring, data, fit, make, make_trainer

DEPLOYMENT = cim.Gaussian(sigma=0.2)


def tune(base=Boring, flavour=FLAVOURS[0], **kwargs):
    settings = {
        "data": (data(), data(2, seed=2)),
        "deployment": DEPLOYMENT,
        "trials": 3,
        "chips": 3,
        "k": 20.0,
        "monitor": "val/loss",
        "progress": False,
        **kwargs,
    }
    return tune_right_censored(lambda: make(flavour, base), lambda: make_trainer(flavour, max_epochs=1), **settings)


@pytest.fixture(autouse=True)
def _optuna():
    pytest.importorskip("optuna")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_trials(flavour):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    result = tune(flavour=flavour)
    assert torch.equal(torch.get_rng_state(), state)
    assert result == tune(flavour=flavour)
    assert [trial.number for trial in result.trials] == [0, 1, 2]
    assert len({trial.score for trial in result.trials}) == 3
    for trial in result.trials:
        assert 0.02 <= trial.sigma <= 0.4
        assert 0.5 <= trial.cutoff <= 3.0
    assert result.lower_is_better
    assert result.best.score == min(trial.score for trial in result.trials)
    assert result.variation == cim.RightCensoredGaussian(result.best.sigma, cutoff=result.best.cutoff)
    assert result != tune(flavour=flavour, seed=1)


def test_a_trial_is_a_fit_with_injection_scored_on_validation_chips():
    trial = tune(trials=1).trials[0]
    injection = cim.VariationInjection(cim.RightCensoredGaussian(trial.sigma, cutoff=trial.cutoff))
    # make() seeds, and the boring module trains from the random state that building it leaves
    model, trainer = make(FLAVOURS[0]), make_trainer(FLAVOURS[0], max_epochs=1, callbacks=[injection])
    trainer.fit(model, data(), data(2, seed=2))
    yardstick = Yardstick(DEPLOYMENT, 3, 20.0, "val/loss")
    assert Judge(trainer, model, yardstick).scores({"mid": tensors_of(model)})["mid"].value == trial.score


def test_a_stopped_search_goes_on(tmp_path):
    storage = f"sqlite:///{tmp_path / 'tune.db'}"

    class Stops(Boring):
        fits = 0

        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking and batch_idx == 0:
                Stops.fits += 1
                if Stops.fits == 2:
                    raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        tune(Stops, storage=storage)
    result = tune(Stops, storage=storage)
    assert Stops.fits == 1 + 1 + 2
    expected = [(trial.sigma, trial.cutoff, trial.score) for trial in tune().trials]
    assert [(trial.sigma, trial.cutoff, trial.score) for trial in result.trials] == expected
    assert tune(Stops, storage=storage) == result
    assert Stops.fits == 4
    with pytest.raises(ValueError, match="is another search"):
        tune(storage=storage, chips=2)


class Undefined(Boring):
    def validation_step(self, batch, batch_idx):
        self.log("val/acc", math.nan, batch_size=1)


def test_nothing_but_nan():
    with pytest.raises(ValueError, match="val/acc was NaN in each of 2 trials"):
        tune(Undefined, trials=2, monitor=None)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sigma": (0.2, 0.1)}, ValueError, "sigma must be a range"),
        ({"cutoff": (0.0, 1.0)}, ValueError, "cutoff must be a range"),
        ({"trials": 0}, ValueError, "trials must be at least 1"),
        ({"deployment": 0.1}, MisconfigurationException, "deployment must be a Variation"),
        ({"data": (data(), None)}, ValueError, "scores on validation data"),
        ({"monitor": "nothing"}, MisconfigurationException, "no metric 'nothing'"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        tune(**arguments)


def test_without_optuna_the_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"lightning-cim\[tune\]"):
        tune()


class TestResult:
    trials = (Trial(0, 0.1, 2.0, 0.8), Trial(2, 0.3, 1.5, 0.9), Trial(3, 0.2, 1.0, 0.7))

    def test_table_is_sorted(self):
        lines = str(TuningResult(list(self.trials), "val/acc", 5.0)).splitlines()
        assert "KPP 5 % of val/acc" in lines[0]
        assert [int(line.split()[0]) for line in lines[1:]] == [2, 0, 3]
        lines = str(TuningResult(list(self.trials), "val/loss", lower_is_better=True)).splitlines()
        assert [int(line.split()[0]) for line in lines[1:]] == [3, 0, 2]

    def test_csv(self, tmp_path):
        TuningResult(list(self.trials), "val/acc").to_csv(tmp_path / "trials.csv")
        with (tmp_path / "trials.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [float(row["sigma"]) for row in rows] == [0.1, 0.3, 0.2]
        assert rows[1] == {"trial": "2", "sigma": "0.3", "cutoff": "1.5", "score": "0.9"}

    def test_plot(self):
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        figure, ax = TuningResult(list(self.trials), "val/acc").plot()
        assert ax.collections[0].get_offsets().tolist() == [[0.1, 2.0], [0.3, 1.5], [0.2, 1.0]]
        assert ax.lines[0].get_xydata().tolist() == [[0.3, 1.5]]
        matplotlib.pyplot.close(figure)


def test_the_datamodule_and_own_loaders():
    class WithLoaders(Boring):
        def train_dataloader(self):
            return data()

        def val_dataloader(self):
            return data(2, seed=2)

    assert tune(WithLoaders, data=None) == tune()
    assert fit(FLAVOURS[0], max_epochs=1).model.losses  # the Trainer of a trial is none of the next fit's
