"""Logged statistics against evaluation by hand."""

import math

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint

import lightning_cim as cim
from tests.evaluation.toys import VARIATION, Classifier, by_hand, loader, population, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")
SUFFIXES = ("mean", "std", "kpp", "kpp_low", "kpp_high", "worst")


def held(chips, seed=0):
    return [cim.Chip(VARIATION, seed, index, stream="validation") for index in range(chips)]


def test_logged_names_and_values_equal_evaluation_by_hand():
    model, callback = Classifier(), cim.MonteCarloEvaluation(VARIATION, chips=20, k=10, seed=5)
    over = trainer(callbacks=[callback])
    over.fit(model, loader(), loader())
    accuracies, losses = by_hand(model, held(20, seed=5))
    expected = cim.ChipResult({"acc": accuracies, "loss": losses}, list(range(20)))
    found = {name: float(value) for name, value in over.callback_metrics.items() if name.startswith("cim/")}
    assert set(found) == {f"cim/{metric}_{suffix}" for metric in ("acc", "loss") for suffix in SUFFIXES}
    for metric in ("acc", "loss"):
        mark = expected.kpp(metric, 10)
        values = (expected.mean(metric), expected.std(metric), mark.value, mark.low, mark.high, expected.worst(metric))
        for suffix, value in zip(SUFFIXES, values, strict=True):
            assert found[f"cim/{metric}_{suffix}"] == pytest.approx(value, rel=1e-4, abs=1e-6), suffix
    assert callback.result.values["val/acc"] == pytest.approx(accuracies, abs=1e-6)


def test_test_loop_sees_the_population_of_evaluate_chips():
    model, callback = Classifier(), cim.MonteCarloEvaluation(VARIATION, chips=4, seed=1)
    (logged,) = trainer(callbacks=[callback]).test(model, loader(), verbose=False)
    accuracies, _ = by_hand(model, population(model, 4, seed=1))
    assert logged["cim/acc_mean"] == pytest.approx(accuracies.mean(), abs=1e-6)
    assert logged["cim/acc_worst"] == pytest.approx(accuracies.min(), abs=1e-6)


def test_a_single_chip_has_no_std():
    over = trainer(callbacks=[cim.MonteCarloEvaluation(VARIATION, chips=1)])
    over.fit(Classifier(), loader(), loader())
    assert "cim/acc_mean" in over.callback_metrics
    assert "cim/acc_std" not in over.callback_metrics


def test_model_checkpoint_monitors_the_worst_case(tmp_path):
    monitor = ModelCheckpoint(tmp_path, monitor="cim/acc_kpp", mode="max", save_top_k=2)
    over = trainer(
        callbacks=[cim.MonteCarloEvaluation(VARIATION, chips=5, k=20), monitor], max_epochs=3, enable_checkpointing=True
    )
    over.fit(Classifier(), loader(), loader())
    best = torch.load(monitor.best_model_path, weights_only=False)
    model = Classifier()
    model.load_state_dict(best["state_dict"])
    accuracies, _ = by_hand(model, held(5))
    kpp = cim.ChipResult({"acc": accuracies}, list(range(5))).kpp(k=20).value
    assert float(monitor.best_model_score) == pytest.approx(kpp, abs=1e-6)


def test_runs_every_n_epochs_and_not_in_the_sanity_check(tmp_path):
    over = trainer(
        callbacks=[cim.MonteCarloEvaluation(VARIATION, chips=2, every_n_epochs=2, csv_dir=str(tmp_path))],
        max_epochs=4,
        num_sanity_val_steps=2,
    )
    over.fit(Classifier(), loader(), loader())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "chips-validate-epoch001.csv",
        "chips-validate-epoch003.csv",
    ]
    assert cim.ChipResult.from_csv(tmp_path / "chips-validate-epoch003.csv").about["epoch"] == 3


def test_the_run_is_untouched():
    """Weights, losses and the random state are those of a fit without it."""
    finals, states = [], []
    for callbacks in ([], [cim.MonteCarloEvaluation(VARIATION, chips=3)]):
        torch.manual_seed(7)
        model = Classifier()
        torch.manual_seed(8)
        trainer(callbacks=callbacks, max_epochs=2).fit(model, loader(shuffle=True), loader())
        finals.append(model.state_dict())
        states.append(torch.get_rng_state())
    assert all(torch.equal(finals[0][name], finals[1][name]) for name in finals[0])
    assert torch.equal(*states)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variation": "gaussian"}, "MonteCarloEvaluation: variation must be a Variation"),
        ({"chips": 0}, "chips=0, every_n_epochs=1, k=1.0"),
        ({"every_n_epochs": 0}, "every_n_epochs=0"),
        ({"k": 100}, "k lie between 0 and 100, got .*k=100"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(MisconfigurationException, match=message):
        cim.MonteCarloEvaluation(**{"variation": VARIATION, **options})


def test_a_mapping_that_fits_nothing_is_refused():
    over = trainer(callbacks=[cim.MonteCarloEvaluation(VARIATION, mapping=cim.Mapping(targets=["conv"]))])
    with pytest.raises(MisconfigurationException, match=r"MonteCarloEvaluation: .*maps no parameter of Classifier"):
        over.validate(Classifier(), loader(), verbose=False)


def test_a_metric_that_is_nan_on_a_chip_does_not_end_the_run(tmp_path):
    class NaNOnChips(Classifier):
        def validation_step(self, batch, batch_idx):
            self.log("val/acc", torch.tensor(float("nan")))

    callback = cim.MonteCarloEvaluation(cim.Gaussian(0.1), chips=2, k=50)
    fitting = trainer(max_epochs=1, callbacks=[callback])
    fitting.fit(NaNOnChips(), loader(), loader())
    assert math.isnan(fitting.callback_metrics["cim/acc_kpp"])
    assert "NaN on 2 chips" in callback.result.table()
