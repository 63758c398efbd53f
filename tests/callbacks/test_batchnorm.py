"""Recalibrated statistics against statistics computed by hand."""

import pytest
import torch
from torch import nn

import lightning_cim as cim
from tests.evaluation.toys import VARIATION


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=0.3), nn.Dropout(0.5), nn.Linear(4, 2))


def batches():
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, 3, generator=generator) for size in (8, 5, 16)]


def assert_statistics(norm, activations):
    """Plain averages over batches of the batch mean and of the unbiased batch variance."""
    means = torch.stack([x.mean(0) for x in activations])
    variances = torch.stack([x.var(0, unbiased=True) for x in activations])
    torch.testing.assert_close(norm.running_mean, means.mean(0))
    torch.testing.assert_close(norm.running_var, variances.mean(0))


@pytest.mark.parametrize("pairs", [False, True])
def test_statistics_of_the_model_as_it_is(pairs):
    model = net()
    data = [(x, torch.zeros(len(x))) for x in batches()] if pairs else batches()
    assert cim.recalibrate_batchnorm(model, data) == 3
    assert_statistics(model[1], [model[0](x) for x in batches()])


def test_statistics_on_a_chip():
    model = net()
    chip = cim.ChipPopulation(model, VARIATION)[2]
    weights = cim.chip_weights(model, chip)
    cim.recalibrate_batchnorm(model, batches(), chip)
    assert_statistics(model[1], [nn.functional.linear(x, weights["0.weight"], model[0].bias) for x in batches()])


def test_what_was_collected_before_is_forgotten_and_the_rest_untouched():
    model = net().train()
    model[3].eval()
    model[1].running_mean.fill_(100.0)
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    cim.recalibrate_batchnorm(model, batches(), cim.ChipPopulation(model, VARIATION)[0])
    assert model[1].running_mean.abs().max() < 10
    assert model[1].momentum == 0.3
    assert [module.training for module in model] == [True, True, True, False]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_only_so_many_batches():
    model = net()
    assert cim.recalibrate_batchnorm(model, batches(), max_batches=2) == 2
    assert_statistics(model[1], [model[0](x) for x in batches()[:2]])


def test_layers_in_depth_see_normalised_inputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3))
    cim.recalibrate_batchnorm(model, batches())
    own = [nn.functional.batch_norm(x, None, None, training=True) for x in batches()]
    assert_statistics(model[2], [model[1](x) for x in own])


def test_nothing_to_recalibrate_is_refused():
    with pytest.raises(ValueError, match="Linear has no batch-norm layer with running statistics"):
        cim.recalibrate_batchnorm(nn.Linear(2, 2), batches())
    with pytest.raises(ValueError, match="got no batch: its statistics were reset and need data"):
        cim.recalibrate_batchnorm(net(), [])


def test_modes_and_momenta_come_back_after_an_error():
    model = net().train()
    with pytest.raises(RuntimeError):
        cim.recalibrate_batchnorm(model, [torch.ones(2, 99)])
    assert all(module.training for module in model.modules())
    assert model[1].momentum == 0.3
