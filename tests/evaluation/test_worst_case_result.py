"""What the worst-case search hands over: scores, a chip, tables; and the arguments that it refuses."""

import copy
import pickle

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.evaluation.journal import read_rows
from lightning_cim.evaluation.worst_case import worst_case
from tests.evaluation.worst_case_toys import FAST, cross_entropy_data
from tests.helpers.digits import accuracy

mpl.use("Agg")


def test_scores_are_those_of_the_chip_and_held_out_data_have_no_part_in_the_search(mlp):
    found_on, other = cross_entropy_data(), cross_entropy_data(seed=1)
    result = worst_case(mlp, found_on, 0.2, evaluate_on=other, **FAST)
    alone = worst_case(mlp, found_on, 0.2, **FAST)
    assert torch.equal(result.chip.deviations["0.weight"], alone.chip.deviations["0.weight"])
    assert result.history == alone.history
    assert alone.held_out is None
    assert alone.worst == alone.found_on.found
    for score, dataset_ in ((result.found_on, found_on), (result.held_out, other)):
        assert score.clean == pytest.approx(accuracy(mlp, dataset_))
        with cim.on_chip(mlp, result.chip):
            assert score.found == pytest.approx(accuracy(mlp, dataset_))
        assert score.count == 40
    assert (result.clean, result.worst) == (result.held_out.clean, result.held_out.found)
    assert result.found_on.found < result.found_on.clean


def test_table_csv_plot_and_pickle(mlp, tmp_path):
    result = worst_case(mlp, cross_entropy_data(), 0.1, evaluate_on=cross_entropy_data(seed=1), steps=3, **FAST)
    text = str(result)
    for part in ("held-out data", "data it was found on", f"{result.worst:.4f}", "0.weight", "bound 0.1, sign search"):
        assert part in text
    alone = worst_case(mlp, cross_entropy_data(), 0.1, steps=3, **FAST)
    assert "found and scored on the same data" in str(alone)
    assert "held-out" not in str(alone)
    result.to_csv(tmp_path / "worst.csv")
    about, rows = read_rows(tmp_path / "worst.csv")
    assert about["held out"]["found"] == result.worst
    assert about["layers"] == result.layers
    assert [rows[step]["score"] for step in range(4)] == [attempt.score for attempt in result.history]
    random_chips = np.linspace(0.8, 0.9, 5)
    figure, axes = result.plot(random=random_chips)
    assert len(axes.lines) == 3
    assert list(axes.lines[2].get_ydata()) == list(random_chips)
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(10.0)
    mpl.pyplot.close(figure)
    again = pickle.loads(pickle.dumps(result))
    assert again.held_out == result.held_out
    assert torch.equal(again.chip.deviations["0.weight"], result.chip.deviations["0.weight"])


def test_found_chip_is_one_of_its_own_and_refuses_other_networks(mlp):
    chip = worst_case(mlp, cross_entropy_data(), 0.1, steps=2, **FAST).chip
    assert chip != copy.copy(chip)
    assert len({chip, copy.copy(chip)}) == 2
    weight = mlp[0].weight
    assert torch.allclose(weight + chip.deviation("0.weight", weight), cim.chip_weights(mlp, chip)["0.weight"])
    with (
        pytest.raises(ValueError, match=r"has none for parameter 'weight' of shape \(3, 5\)"),
        cim.on_chip(nn.Linear(5, 3), chip),
    ):
        pass
    other = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"those of shape \(16, 5\) for parameter '0.weight' of shape \(4, 5\)"):
        cim.chip_weights(other, chip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 0.0}, "bound is the largest .* finite number > 0, got 0.0"),
        ({"bound": float("nan")}, "finite number > 0, got nan"),
        ({"method": "random"}, "method must be 'sign' or 'lagrange', got 'random'"),
        ({"distance": "l1"}, "distance must be one of 'max', 'l2', 'linf', got 'l1'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"lr": 0.0}, "got lr=0.0"),
        ({"kappa": -1.0}, "kappa=-1.0"),
        ({"max_batches": 0}, "max_batches must be at least 1, got 0"),
        ({"mapping": cim.Mapping(targets=["conv"])}, "maps no parameter"),
        ({"data": []}, "no batch with a prediction"),
        ({"data": 5}, "must be a loader, an iterable of batches or a data set, got int"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        worst_case(**{"model": nn.Linear(5, 3), "data": cross_entropy_data(), "bound": 0.1, **FAST, **options})


def test_weights_and_gradients_that_are_not_finite_are_refused(mlp):
    broken = copy.deepcopy(mlp)
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter '0\.weight' has 1 NaN"):
        worst_case(broken, cross_entropy_data(), 0.1, **FAST)
    x, y = cross_entropy_data().tensors
    with pytest.raises(ValueError, match="is NaN or infinite; the network overflows"):
        worst_case(mlp, [(x * float("inf"), y)], 0.1, **FAST)
