"""In-situ training against a loop by hand."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.programming.in_situ import in_situ_training
from lightning_cim.programming.program import program
from tests.evaluation.toys import Classifier, dataset
from tests.programming.toys import VARIATION, accuracy, batches, net, scripted

VALIDATION = dataset(96, seed=1)


def trained(model, **options):
    settings = {"iterations": 7, "score_every": 3, "lr": 0.1, "chips": 2, "validation": batches(seed=1), **options}
    return in_situ_training(model, batches(), VARIATION, **settings)


def test_the_curve_equals_a_loop_by_hand():
    model = net()
    found = trained(model)
    inputs, labels = dataset(96).tensors
    parts = list(zip(inputs.split(32), labels.split(32), strict=True))
    for r in range(2):
        targets = copy.deepcopy(model)
        chip, scores = cim.Chip(VARIATION, 0, r), []
        for iteration in range(8):
            held = cim.chip_weights(targets, chip)
            if iteration in (0, 3, 6, 7):
                scores.append(accuracy(targets, held, VALIDATION))
            written = copy.deepcopy(targets)
            written.load_state_dict({**written.state_dict(), **held})
            x, y = parts[iteration % 3]
            nn.functional.cross_entropy(written(x), y).backward()
            with torch.no_grad():
                for target, parameter in zip(targets.parameters(), written.parameters(), strict=True):
                    target -= 0.1 * parameter.grad
            chip = cim.Chip(VARIATION, 0, r, stream=f"chip/write{iteration + 1}")
        assert found.scores[:, r] == pytest.approx(scores)
    assert np.unique(found.scores).size > 2


def test_every_iteration_costs_one_cycle_a_weight():
    found = trained(net())
    assert found.nwc_verify_only[:, 0] == pytest.approx(np.array([0, 3, 6, 7]) / 9)
    assert found.nwc_total[:, 0] == pytest.approx(np.array([1, 4, 7, 8]) / 10)
    assert not found.fraction.any()
    assert "in-situ training; ideal accuracy" in str(found)


def test_it_begins_where_programming_begins():
    model = net()
    report = program(
        model,
        batches(),
        VARIATION,
        validation=batches(seed=1),
        verify_fraction=0.0,
        chips=3,
        sensitivity=scripted(model),
        progress=False,
    )
    found = trained(model, chips=3)
    assert np.array_equal(found.scores[0], report.curve.scores[0])
    assert found.ideal == report.curve.ideal
    assert found.nwc_total[0] == pytest.approx(report.curve.nwc_total[0])


@pytest.mark.parametrize("make", [net, Classifier])
def test_the_model_is_given_back(make):
    model = make()
    model.train()
    before = copy.deepcopy(model.state_dict())
    state = torch.get_rng_state()
    trained(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_given_back_after_an_error():
    class Failing(nn.Sequential):
        calls = 0

        def forward(self, inputs):
            Failing.calls += 1
            if Failing.calls == 12:
                raise RuntimeError("out of memory")
            return super().forward(inputs)

    model = Failing(*net())
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(RuntimeError, match="out of memory"):
        trained(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())


def test_an_untrained_network_learns_on_its_chips():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    found = in_situ_training(model, batches(), cim.Gaussian(0.2), iterations=60, score_every=60, lr=0.3, chips=4)
    assert found.mean[0] < 0.7
    assert found.mean[-1] > found.mean[0] + 0.15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"score_every": 0}, "score_every must be at least 1"),
        ({"chips": 0}, "chips must be at least 1"),
        ({"lr": 0}, "lr must be > 0, got 0"),
        ({"mapping": cim.Mapping(targets=["conv"])}, "maps no parameter"),
        ({"cycles_per_verified_weight": 0.5}, "must cost more cycles"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trained(net(), **options)


def test_no_batches_are_refused():
    with pytest.raises(ValueError, match="no batch"):
        in_situ_training(net(), [], VARIATION)
