"""Which networks and data the worst-case search takes, and that it gives them back as they were."""

import copy
import random

import lightning as L
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.sparsity import Mask
from lightning_cim.evaluation.worst_case import worst_case
from tests.evaluation.toys import Classifier, Data, dataset
from tests.evaluation.worst_case_toys import FAST, METHODS, cross_entropy_data, fitted
from tests.helpers.boring import FLAVOURS, data, make
from tests.helpers.digits import accuracy


@pytest.mark.parametrize("options", METHODS[1:3], ids=("sign", "lagrange"))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_module_and_random_state_are_given_back(flavour, options):
    """Also where a part of it is in eval mode, and what its step stores besides the loss (see no_traces)."""
    model = make(flavour)
    model.train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    result = worst_case(model, data(seed=3, shuffle=True), 0.1, **options, **FAST)
    assert result.found_on.found <= result.found_on.clean
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert scope_of(model).chain == ()
    assert "training_step" not in model.__dict__


def test_batch_norm_and_dropout_are_in_eval_mode():
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    fitted(net, cross_entropy_data())
    result = worst_case(net, cross_entropy_data(), 0.01, **FAST)
    assert net.training
    assert result.clean == pytest.approx(accuracy(copy.deepcopy(net).eval(), cross_entropy_data()))


def test_frozen_weights_are_searched_also_where_nobody_records_gradients(mlp):
    expected = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    mlp.requires_grad_(False)
    with torch.no_grad():
        frozen = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    with torch.inference_mode():
        inferred = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    assert frozen.history == inferred.history == expected.history


@pytest.mark.parametrize("options", METHODS[1:], ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("pruned", ["absent", "stored"])
def test_pruned_weights_without_a_device_do_not_deviate(mlp, options, pruned):
    mask = Mask((2, 4), 0.5)
    mask.update(mlp)
    scope_of(mlp).add(mask)
    try:
        mapping = cim.Mapping(pruned=pruned)
        result = worst_case(mlp, cross_entropy_data(), 0.2, mapping=mapping, **options, **FAST)
        weights = cim.chip_weights(mlp, result.chip)
    finally:
        scope_of(mlp).remove(mask)
    for name, kept in mask.masks.items():
        assert (weights[name][~kept] == 0).all() == (pruned == "absent")
        clean = mlp.get_parameter(name)[kept].detach()
        assert not torch.equal(weights[name][kept], clean)
        assert result.layers[name] <= 0.2 + 1e-7


def test_mapping_limits_the_search(mlp):
    result = worst_case(mlp, cross_entropy_data(), 0.1, mapping=cim.Mapping(exclude=["0"]), **FAST)
    assert list(result.layers) == list(result.chip.deviations) == ["2.weight"]


def test_tied_weights_deviate_alike():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model = fitted(Tied(), cross_entropy_data())
    result = worst_case(model, cross_entropy_data(), 0.1, **FAST)
    with cim.on_chip(model, result.chip):
        assert model.a.weight is model.b.weight
    assert list(result.layers) == ["a.weight"]


class Last(nn.Module):
    """Classifies by the last output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.recurrent, self.head = layer(1, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.recurrent(x.unsqueeze(2))[0][:, -1])


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_recurrent_networks(layer):
    torch.manual_seed(0)
    model = fitted(Last(layer), cross_entropy_data())
    result = worst_case(model, cross_entropy_data(), 0.3, **FAST)
    assert min(result.layers.values()) > 0
    assert result.worst < result.clean


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_recurrent_networks_on_a_gpu(layer):
    """cuDNN has no backward in eval mode; the chip itself lies on the CPU and works on both."""
    torch.manual_seed(0)
    model = fitted(Last(layer), cross_entropy_data()).cuda()
    result = worst_case(model, cross_entropy_data(), 0.3, **FAST)
    with cim.on_chip(model.cpu(), result.chip):
        assert result.worst == pytest.approx(accuracy(model, cross_entropy_data()), abs=1 / 40)


def test_regression_is_scored_by_its_loss():
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    y = x.sum(1, keepdim=True)
    model = nn.Linear(4, 1)
    model.weight.data.fill_(1.0)
    model.bias.data.fill_(0.1)
    result = worst_case(model, DataLoader(TensorDataset(x, y), 8), 0.1, **FAST)
    assert result.metric == "loss"
    assert result.clean == pytest.approx(0.01, rel=1e-4)
    with cim.on_chip(model, result.chip), torch.no_grad():
        assert result.worst == pytest.approx(nn.functional.mse_loss(model(x), y).item(), rel=1e-4)
    assert result.worst > 0.02


def test_labels_with_a_binary_criterion():
    class MultiLabel(nn.Linear):
        def cim_logits_and_target(self, batch):
            return self(batch[0]), batch[1], nn.functional.binary_cross_entropy_with_logits

    torch.manual_seed(0)
    model, x = MultiLabel(6, 3, bias=False), torch.randn(50, 6)
    y = (model(x) > 0).float().detach()
    result = worst_case(model, [(x[:25], y[:25])], 0.2, evaluate_on=[(x[25:], y[25:])], **FAST)
    assert (result.clean, result.held_out.count) == (1.0, 75)
    with cim.on_chip(model, result.chip), torch.no_grad():
        assert result.worst == pytest.approx(((model(x[25:]) > 0) == (y[25:] > 0.5)).float().mean().item())
    assert result.worst < 0.95


def test_max_batches_limits_the_search_only(mlp):
    loader = DataLoader(cross_entropy_data(), 10)
    result = worst_case(mlp, loader, 0.1, evaluate_on=loader.dataset, max_batches=2, **FAST)
    assert (result.found_on.count, result.held_out.count) == (20, 40)


def test_datamodules_give_training_and_test_data():
    result = worst_case(Classifier(), Data(), 0.2, **FAST)
    by_hand = worst_case(Classifier(), dataset(), 0.2, evaluate_on=dataset(), **FAST)
    assert result.held_out.count == 48
    assert result.found_on.found == pytest.approx(by_hand.found_on.found)


def test_datamodules_without_test_or_training_data():
    class TrainOnly(Data):
        test_dataloader = L.LightningDataModule.test_dataloader

    class TestOnly(Data):
        train_dataloader = L.LightningDataModule.train_dataloader

    assert worst_case(Classifier(), TrainOnly(), 0.2, steps=1, **FAST).held_out is None
    assert worst_case(Classifier(), dataset(), 0.2, steps=1, evaluate_on=TestOnly(), **FAST).held_out.count == 48
    with pytest.raises(ValueError, match="a data set, got NoneType"):
        worst_case(Classifier(), TestOnly(), 0.2, **FAST)


def test_weights_that_no_gradient_reaches():
    class Detached(nn.Module):
        def __init__(self, both):
            super().__init__()
            self.first, self.second, self.both = nn.Linear(5, 5), nn.Linear(5, 3), both

        def forward(self, x):
            found = self.second(self.first(x).detach())
            return found.detach() if self.both else found

    with pytest.raises(ValueError, match=r"no gradient reaches first\.weight, second\.weight of Detached"):
        worst_case(Detached(True), cross_entropy_data(), 0.1, **FAST)
    with pytest.warns(UserWarning, match=r"no gradient reaches first\.weight of Detached") as caught:
        result = worst_case(Detached(False), cross_entropy_data(), 0.1, **FAST)
    assert len(caught) == 1
    assert result.layers["first.weight"] == 0.0
    assert result.layers["second.weight"] > 0.0
