"""Chips at several times since programming, against a plain loop over the times."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lightning_cim as cim
from lightning_cim.evaluation.times import increasing
from lightning_cim.variation.temporal import Drift
from lightning_cim.variation.times import seconds
from tests.evaluation.aging import Growing
from tests.evaluation.toys import Classifier, by_hand, loader, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")

TIMES = ["1s", "1min", "1h", "1y"]
AGING = [
    pytest.param(Growing(), id="growing"),
    pytest.param(cim.Gaussian(0.05) + Drift(nu=0.05, nu_std=0.05), id="drift"),
    pytest.param(Drift(nu=0.05, nu_std=0.05, compensation="global"), id="drift alone"),
]


def evaluate(model, variation, chips=3, over=None, **options):
    return cim.evaluate_chips(
        over or trainer(), model, loader(), variation=variation, chips=chips, progress=False, **options
    )


def equal(first, second):
    assert first.chips == second.chips
    assert first.metrics == second.metrics
    for name in first.metrics:
        np.testing.assert_array_equal(first.values[name], second.values[name])


@pytest.mark.parametrize("variation", AGING)
def test_equals_a_plain_loop_over_times(variation):
    model = Classifier()
    found = evaluate(model, variation, seed=3, times=TIMES)
    assert found.times == [1.0, 60.0, 3600.0, 365 * 86400.0]
    for time in TIMES:
        equal(found.at(time), evaluate(model, variation.at(seconds(time)), seed=3))
    losses = [tuple(found.at(time).values["test/loss"]) for time in TIMES]
    assert len(set(losses)) == len(TIMES)


def test_a_chip_keeps_its_numbers_and_only_sigma_grows():
    model = Classifier()
    found = evaluate(model, Growing(), seed=1, times=[1, math.e])
    for time, sigma in ((1, 0.1), (math.e, 0.2)):
        chips = [cim.Chip(cim.Gaussian(sigma), 1, index) for index in range(3)]
        np.testing.assert_allclose(found.at(time).values["test/loss"], by_hand(model, chips)[1], rtol=1e-5)


def test_drift_without_spread_shrinks_all_weights_by_the_power_law():
    model, drift = Classifier(), Drift(nu=0.1, t0=20.0)
    found = evaluate(model, drift, chips=1, times=["1h"])
    for weight in (model.net[0].weight, model.net[2].weight):
        weight.data *= ((3600 + 20) / 20) ** -0.1
    (clean,) = trainer().test(model, loader(), verbose=False)
    assert found.at("1h").values["test/loss"][0] == pytest.approx(clean["test/loss"], rel=1e-5)


def test_workers_make_no_difference():
    model = Classifier()
    one, two = (evaluate(model, Growing(), times=TIMES, workers=workers) for workers in (1, 2))
    for time in TIMES:
        equal(one.at(time), two.at(time))


class Watched(Classifier):
    """Keeps one weight of each pass."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def test_step(self, batch, batch_idx):
        super().test_step(batch, batch_idx)
        if batch_idx == 0:
            self.seen.append(self.net[0].weight[0, 0].item())


def test_all_times_of_a_chip_come_one_after_another():
    model, variation = Watched(), Growing()
    evaluate(model, variation, chips=2, times=["1s", "1h"])
    expected = []
    for index in range(2):
        for time in (1.0, 3600.0):
            with cim.on_chip(model, cim.Chip(variation.at(time), 0, index)):
                expected.append(model.net[0].weight[0, 0].item())
    assert model.seen == expected


def test_result_says_what_was_evaluated():
    found = evaluate(Classifier(), Growing(), times=["1s", "1h"], stage="validate", lower_is_better=["val/acc"])
    assert found.about == {"variation": "Growing()", "seed": 0, "stage": "validate"}
    assert found.at("1h").about == {**found.about, "time": "1 h"}
    assert found.at("1h").is_lower_better("val/acc")


def test_bar_counts_passes(capsys):
    cim.evaluate_chips(trainer(), Classifier(), loader(), variation=Growing(), chips=3, times=["1s", "1h"])
    shown = capsys.readouterr().out
    assert "passes" in shown
    assert "6/6" in shown


def test_the_only_time_may_be_the_variations_own():
    drift = Drift(nu=0.1, time=1.0)
    equal(evaluate(Classifier(), drift, times=["1s"]).at("1s"), evaluate(Classifier(), drift))
    assert evaluate(Classifier(), Growing(), times=[1.0]).times == [1.0]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([], "times must hold at least one time"),
        ("1h", r"times must be a list such as \['1s', '1h', '1d'\], got '1h'"),
        (3600, "times must be a list"),
        (["1h", "1s"], "times must increase, but 1 s comes after 1 h"),
        (["1s", "1h", "60min"], "times must increase, but 1 h comes after 1 h"),
        (["1 fortnight"], "one of s, min, h, d, mo, y such as '1h', got '1 fortnight'"),
        ([0.0], "must be seconds > 0"),
        (["1s", None], "must be seconds > 0"),
        (["1s", "2y"], "2 y was not measured"),
    ],
)
def test_bad_times_are_refused_before_anything_runs(times, message):
    model = Watched()
    with pytest.raises(ValueError, match=message):
        evaluate(model, Growing(), times=times)
    assert model.seen == []


@pytest.mark.parametrize("times", [["1h"], ["1s", "1h"]])
@pytest.mark.parametrize("variation", [cim.Gaussian(0.1), cim.Gaussian(0.1) + cim.RightCensoredGaussian(0.1)])
def test_a_variation_in_which_nothing_depends_on_time_is_refused(variation, times):
    with pytest.raises(ValueError, match=r"nothing in .*Gaussian.* depends on time.*Drift\(nu=0.05\)"):
        evaluate(Classifier(), variation, times=times)


def test_something_else_than_a_variation_is_refused():
    with pytest.raises(ValueError, match="variation must be a Variation"):
        evaluate(Classifier(), 0.1, times=["1h"])


@given(st.lists(st.floats(1e-3, 1e9), min_size=1, max_size=6))
def test_times_are_taken_exactly_where_they_increase(times):
    if times == sorted(set(times)):
        assert increasing(times) == times
    else:
        with pytest.raises(ValueError, match="times must increase"):
            increasing(times)
