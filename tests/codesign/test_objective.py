import math

import pytest

from lightning_cim.codesign import Objective

METRICS = {"acc_mean": 0.9, "acc_kpp": 0.8, "energy_pj": 2e7, "latency_ns": 1e6, "area_mm2": 30.0}


def test_rewards_are_the_formulas():
    assert Objective("acc_energy").reward(METRICS) == pytest.approx(0.9 - math.sqrt(2e7 / 8e7))
    assert Objective("acc_energy", accuracy="acc_kpp").reward(METRICS) == pytest.approx(0.8 - 0.5)
    assert Objective("acc_latency").reward(METRICS) == pytest.approx(0.9 + 1000 / 1600)
    weighted = Objective("weighted", weights={"acc_mean": 2.0, "area_mm2": -0.01})
    assert weighted.reward(METRICS) == pytest.approx(1.8 - 0.3)
    assert Objective("pareto").reward(METRICS) == 0.9


def test_violations_are_relative():
    objective = Objective(limits={"area_mm2": 20.0, "energy_pj": 4e7})
    assert objective.violations(METRICS) == {"area_mm2": pytest.approx(0.5), "energy_pj": pytest.approx(-0.5)}


def test_a_limit_that_cannot_be_kept_is_an_error():
    with pytest.raises(ValueError, match="needs the metric 'area_mm2'"):
        Objective(limits={"area_mm2": 20.0}).violations({"energy_pj": 1.0})
    with pytest.raises(ValueError, match="no number for area_mm2"):
        Objective(limits={"area_mm2": 20.0}).violations({"area_mm2": math.nan})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reward_name": "accuracy"}, "no reward 'accuracy'"),
        ({"energy_scale": 0.0}, "energy_scale must be more than 0"),
        ({"fps_scale": math.inf}, "fps_scale must be more than 0"),
        ({"limits": {"area_mm2": -1.0}}, "limit of area_mm2"),
        ({"weights": {"acc_mean": 1.0}}, "weights belong to the reward 'weighted'"),
        ({"reward_name": "weighted"}, "weights belong to the reward 'weighted'"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Objective(**options)


def test_a_model_is_told_formula_and_limits():
    task = Objective(limits={"area_mm2": 20.0}).task("a network")
    assert task.reward == "acc_mean - sqrt(energy_pj / 8e+07)"
    assert task.limits == ("area_mm2 at most 20",)


def test_round_trip():
    objective = Objective("acc_latency", limits={"area_mm2": 20.0}, fps_scale=3.0)
    assert Objective(**objective.to_dict()) == objective
