"""What programming takes (modules, loaders, criteria) and that it gives everything back as it was."""

import copy
import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from lightning_cim.programming.program import program
from tests.evaluation.toys import Classifier, Data, dataset
from tests.programming.programmed import QUIET, VALIDATION, programmed
from tests.programming.toys import VARIATION, accuracy, batches, net


def test_everything_is_given_back():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.ReLU(), nn.Linear(8, 2))
    model.train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    shuffled = DataLoader(dataset(), batch_size=8, shuffle=True)
    program(model, shuffled, VARIATION, validation=shuffled, verify_fraction=0.5, test=shuffled, **QUIET)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]


def test_a_network_in_training_mode_is_scored_in_eval_mode():
    torch.manual_seed(0)
    model = nn.Sequential(*net()[:2], nn.Dropout(0.8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    report = program(model, batches(), VARIATION, verify_fraction=0.0, method="random", **QUIET)
    assert report.curve.ideal == pytest.approx(accuracy(copy.deepcopy(model).eval(), {}, dataset(96)))
    assert model.training


def test_the_validation_data_is_read_once():
    reads = []

    class Counted:
        def __iter__(self):
            reads.append(1)
            return iter(batches(seed=1))

    programmed(net(), verify_fraction=0.5, validation=Counted())
    assert len(reads) == 1


def test_an_error_in_the_middle_leaves_the_model_clean():
    model = net()
    before = copy.deepcopy(model.state_dict())
    model.train()

    class Broken:
        def __iter__(self):
            yield from batches(seed=1)
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        programmed(model, verify_fraction=0.5, validation=Broken())
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert type(model[0].weight) is nn.Parameter


def test_a_lightning_module_gives_the_same_report():
    module = Classifier()
    module.net.load_state_dict(net().state_dict())
    found = program(
        module, batches(), VARIATION, validation=batches(seed=1), verify_fraction=0.5, granularity=0.25, **QUIET
    )
    alone = program(
        module.net, batches(), VARIATION, validation=batches(seed=1), verify_fraction=0.5, granularity=0.25, **QUIET
    )
    assert found.curve.ideal == alone.curve.ideal
    assert torch.equal(found.ranking.order, alone.ranking.order)
    # the parameters have other names, hence other draws
    assert [f"net.{name}" for name in alone.ranking.shapes] == list(found.ranking.shapes)
    assert found.curve.scores[0, 0] == pytest.approx(
        accuracy(
            module.net,
            {
                name.removeprefix("net."): value
                for name, value in cim.chip_weights(module, cim.Chip(VARIATION, 0, 0)).items()
            },
            VALIDATION,
        )
    )


def test_data_from_a_datamodule():
    model, data = Classifier(), Data()
    found = program(model, data, VARIATION, verify_fraction=0.25, **QUIET)
    alone = program(
        model, data.train_dataloader(), VARIATION, validation=data.val_dataloader(), verify_fraction=0.25, **QUIET
    )
    assert np.array_equal(found.curve.scores, alone.curve.scores)
    assert "scored on: validation data" in str(found)


def test_a_module_without_loaders_is_refused():
    with pytest.raises(ValueError, match="Classifier has no train_dataloader"):
        program(Classifier(), Classifier(), VARIATION, verify_fraction=0.25)


def test_several_loaders_are_refused():
    class Two(L.LightningDataModule):
        def train_dataloader(self):
            return [batches(), batches()]

    with pytest.raises(ValueError, match="train_dataloader gives 2 loaders"):
        program(net(), Two(), VARIATION, verify_fraction=0.25)


class Regressor(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, inputs):
        return self.layer(inputs)


def test_a_regression_is_scored_by_its_loss():
    model = Regressor()
    inputs = torch.randn(30, 4)
    with torch.no_grad():
        data = [(part, model(part)) for part in inputs.split(8)]  # batches of different sizes
    report = program(model, data, cim.Gaussian(0.5), max_drop=0.01, granularity=0.25, chips=4, progress=False)
    assert report.curve.score_name == "loss"
    assert report.curve.ideal == 0.0
    with torch.no_grad(), cim.on_chip(model, cim.Chip(cim.Gaussian(0.5), 0, 1)):
        expected = nn.functional.mse_loss(model(inputs), torch.cat([target for _, target in data])).item()
    assert report.curve.scores[0, 1] == pytest.approx(expected, rel=1e-5)
    assert (report.scores[report.met] <= 0.01).all()
    assert report.curve.scores[0].mean() > 0.01
    assert report.score < report.curve.scores[0].mean()


def test_a_loss_that_is_nan_meets_no_budget():
    model = Regressor()
    data = [(torch.full((4, 4), float("nan")), torch.zeros(4, 1))]
    report = program(model, data, VARIATION, max_drop=0.1, granularity=0.5, method="magnitude", chips=2, progress=False)
    assert not report.met.any()
    assert (report.stops == 4).all()


def test_batches_that_a_step_changes_in_place_are_read_again():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = net()

        def forward(self, inputs):
            return self.inner(inputs.mul_(-1))

    inputs, labels = dataset(96, seed=1).tensors
    fresh = [(x, y) for x, y in zip(inputs.split(32), labels.split(32), strict=True)]

    class Copies:
        def __iter__(self):
            return iter([(x.clone(), y) for x, y in fresh])

    report = program(InPlace(), Copies(), VARIATION, verify_fraction=0.0, method="random", chips=4, progress=False)
    turned = TensorDataset(-inputs, labels)
    assert report.curve.ideal == pytest.approx(accuracy(net(), {}, turned))
    weights = [cim.chip_weights(InPlace(), cim.Chip(VARIATION, 0, r)) for r in range(4)]
    expected = [
        accuracy(net(), {name.removeprefix("inner."): value for name, value in held.items()}, turned)
        for held in weights
    ]
    assert report.curve.scores[0] == pytest.approx(expected)
    assert min(expected) < 0.4
