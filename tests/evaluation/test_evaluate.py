"""evaluate_chips against chips evaluated by hand, and what it leaves behind."""

import random

import lightning as L
import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from tests.evaluation.toys import VARIATION, Classifier, Data, by_hand, dataset, loader, population, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")


def evaluate(model, data=None, chips=4, over=None, **options):
    return cim.evaluate_chips(
        over or trainer(),
        model,
        data,
        variation=options.pop("variation", VARIATION),
        chips=chips,
        progress=False,
        **options,
    )


def equal(first, second):
    assert first.metrics == second.metrics
    assert first.chips == second.chips
    for name in first.metrics:
        np.testing.assert_array_equal(first.values[name], second.values[name])


@pytest.mark.parametrize(("stage", "name"), [("test", "test"), ("validate", "val")])
def test_equals_chips_evaluated_by_hand(stage, name):
    model = Classifier()
    result = evaluate(model, loader(), chips=5, stage=stage, seed=3)
    accuracies, losses = by_hand(model, population(model, 5, seed=3))
    assert result.chips == list(range(5))
    np.testing.assert_allclose(result.values[f"{name}/acc"], accuracies, atol=1e-6)
    np.testing.assert_allclose(result.values[f"{name}/loss"], losses, rtol=1e-5)
    assert len(set(result.values[f"{name}/loss"])) == 5
    assert result.about == {"variation": "Gaussian(sigma=0.3)", "seed": 3, "stage": stage}


def test_a_chip_is_the_same_for_every_batch_size_and_number_of_chips():
    model = Classifier()
    few, many = evaluate(model, loader(1), chips=2), evaluate(model, loader(7), chips=4)
    for name in few.metrics:
        np.testing.assert_allclose(few.values[name], many.values[name][:2], rtol=1e-5)


def test_workers_make_no_difference():
    model = Classifier()
    equal(evaluate(model, loader()), evaluate(model, loader(), workers=2))


def test_module_trainer_and_random_state_are_given_back():
    model, over = Classifier().train(), trainer()
    model.net[0].eval()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    attributes = set(vars(model))
    modes = [module.training for module in model.modules()]
    torch.manual_seed(1)
    np.random.seed(1)
    random.seed(1)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    evaluate(model, loader(shuffle=True), over=over)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert [module.training for module in model.modules()] == modes
    assert set(vars(model)) - {"_hparams"} == attributes  # Lightning's own lazy attribute
    assert model._trainer is None
    assert over.state.fn is None
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[name])


def test_module_keeps_its_trainer():
    model, over = Classifier(), trainer()
    over.fit(model, loader())
    evaluate(model, loader(), over=over)
    assert model.trainer is over


class CountingDraws(cim.Gaussian):
    draws = 0

    def draw(self, shape, generator):
        type(self).draws += 1
        return super().draw(shape, generator)


def test_one_chip_is_drawn_once_for_a_whole_pass():
    evaluate(Classifier(), loader(4), chips=3, variation=CountingDraws(0.1))
    assert CountingDraws.draws == 3 * 2  # chips times mapped parameters, whatever the number of batches


def test_sigma_zero_is_the_clean_test():
    model = Classifier()
    clean = trainer().test(model, loader(), verbose=False)[0]
    result = evaluate(model, loader(), chips=2, variation=cim.Gaussian(0.0))
    assert {name: value.tolist() for name, value in result.values.items()} == {k: [v, v] for k, v in clean.items()}


def test_several_loaders():
    model = Classifier()

    class Two(Classifier):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            super().test_step(batch, batch_idx)

    two = Two()
    two.load_state_dict(model.state_dict())
    result = evaluate(two, [loader(), DataLoader(dataset(seed=1), 16)], chips=2)
    assert len(result.metrics) == 4
    for index, data in enumerate((dataset(), dataset(seed=1))):
        _, losses = by_hand(two, population(two, 2), data)
        np.testing.assert_allclose(result.values[f"test/loss/dataloader_idx_{index}"], losses, rtol=1e-5)


class WithMetric(Classifier):
    """Logs a torchmetrics object; its state must not leak from chip to chip."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.classification.MulticlassAccuracy(2, average="micro")

    def test_step(self, batch, batch_idx):
        self.accuracy(self(batch[0]), batch[1])
        self.log("acc", self.accuracy)


def test_torchmetrics_objects_are_computed_for_each_chip():
    model = WithMetric()
    np.testing.assert_allclose(evaluate(model, loader(7)).of("acc"), by_hand(model, population(model, 4))[0], atol=1e-6)


class Hooked(Data):
    """Its batch hooks double the inputs; counts how often data are prepared."""

    prepared = 0

    def prepare_data(self):
        self.prepared += 1

    def on_after_batch_transfer(self, batch, dataloader_idx):
        return [2 * batch[0], batch[1]]


def test_datamodule_hooks_are_applied_and_the_datamodule_is_given_back():
    model, data = Classifier(), Hooked()
    attributes = dict(vars(data))
    inputs, labels = dataset().tensors
    _, losses = by_hand(model, population(model, 3), TensorDataset(2 * inputs, labels))
    result = evaluate(model, data, chips=3)
    np.testing.assert_allclose(result.values["test/loss"], losses, rtol=1e-5)
    assert data.prepared == 1
    assert set(vars(data)) == {*attributes, "prepared"}
    assert "test_dataloader" not in vars(data)


class OwnLoader(Classifier):
    def test_dataloader(self):
        return loader()


def test_the_modules_own_loader_is_used_without_data():
    model = OwnLoader()
    equal(evaluate(model), evaluate(model, loader()))


class InPlace(Classifier):
    """A step that changes its batch in place."""

    def test_step(self, batch, batch_idx):
        batch[0].mul_(2.0)
        super().test_step(batch, batch_idx)


def test_a_step_that_changes_its_batch_does_not_reach_the_next_chip():
    model = InPlace()
    inputs, labels = dataset().tensors
    _, losses = by_hand(model, population(model, 3), TensorDataset(2 * inputs, labels))
    np.testing.assert_allclose(evaluate(model, loader(), chips=3).values["test/loss"], losses, rtol=1e-5)


def test_batch_limits_and_precision_of_the_trainer_hold():
    model = Classifier()
    limited = evaluate(model, loader(), chips=2, over=trainer(limit_test_batches=2))
    inputs, labels = dataset().tensors
    _, losses = by_hand(model, population(model, 2), TensorDataset(inputs[:32], labels[:32]))
    np.testing.assert_allclose(limited.values["test/loss"], losses, rtol=1e-5)
    half = evaluate(model, loader(), chips=2, over=trainer(precision="bf16-mixed"))
    assert not np.array_equal(half.values["test/loss"], evaluate(model, loader(), chips=2).values["test/loss"])


def test_training_noise_is_left_out_and_simulated_hardware_kept():
    model = Classifier()
    noisy = trainer(callbacks=[cim.VariationInjection(cim.Gaussian(1.0))])
    equal(evaluate(model, loader(), over=noisy), evaluate(model, loader()))
    quantised = trainer(callbacks=[cim.MixedPrecision(weight_bits=1, activation_bits=None)])
    result = evaluate(model, loader(), over=quantised)
    stored = Classifier()
    stored.load_state_dict(cim.export_state_dict(model, quantised.callbacks))
    np.testing.assert_allclose(result.values["test/loss"], evaluate(stored, loader()).values["test/loss"], rtol=1e-5)


class Convolution(Classifier):
    """Runs channels-last in the passes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 2), nn.Flatten(), nn.Linear(3, 2))


def test_channels_last_changes_no_result():
    model = Convolution()
    _, losses = by_hand(model, population(model, 3))
    np.testing.assert_allclose(evaluate(model, loader(), chips=3).values["test/loss"], losses, rtol=1e-5)


def test_a_convolution_whose_weight_is_computed_can_be_evaluated():
    model = Convolution()
    model.net[1] = weight_norm(model.net[1])
    del model.net[3]
    mapping = cim.Mapping(targets=(), include=["net.1.parametrizations.weight.original1"])
    result = evaluate(model, loader(), chips=2, mapping=mapping)
    assert len(set(result.values["test/loss"])) == 2


def test_lower_is_better_is_passed_on():
    result = evaluate(Classifier(), loader(), lower_is_better=["test/acc"])
    assert result.worst("test/acc") == result.of("test/acc").max()


def test_too_few_chips_are_warned_about():
    with pytest.warns(UserWarning, match="2 chips are few for the 1 % percentile.* Use at least 1000"):
        evaluate(Classifier(), loader(), chips=2)


class NoTest(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 2)

    def validation_step(self, batch, batch_idx):
        pass


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (NoTest, {"data": loader()}, r"NoTest has no test_step; define it, or evaluate with stage='validate'"),
        (NoTest, {"data": loader(), "stage": "validate"}, r"NoTest.validation_step logged no metric"),
        (Classifier, {}, r"Classifier has no test_dataloader; pass data=, or evaluate with stage='validate'"),
        (Classifier, {"data": L.LightningDataModule()}, r"LightningDataModule has no test_dataloader; pass data="),
        (Classifier, {"data": loader(), "chips": 0}, r"chips must be at least 1, got 0"),
        (Classifier, {"data": loader(), "workers": 0}, r"workers must be at least 1, got 0"),
        (Classifier, {"data": loader(), "stage": "fit"}, r"stage must be 'validate' or 'test', got 'fit'"),
        (Classifier, {"data": loader(), "variation": 0.1}, r"variation must be a Variation such as Gaussian"),
        (Classifier, {"data": loader(), "mapping": cim.Mapping(targets=["conv"])}, r"maps no parameter of Classifier"),
    ],
)
def test_bad_arguments_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        evaluate(model(), **options)


class ViewsItsActivations(L.LightningModule):
    """A LeNet of the old school: .view, which a channels-last activation refuses."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(2, 4, 3)
        self.fc = torch.nn.Linear(4 * 6 * 6, 2)

    def test_step(self, batch, batch_idx):
        (images,) = batch
        features = torch.relu(self.conv(images))
        self.log("score", self.fc(features.view(len(images), -1)).mean() + images.view(len(images), -1).mean())


def test_a_module_that_views_its_activations_is_evaluated_without_channels_last():
    torch.manual_seed(0)
    model, images = ViewsItsActivations(), torch.randn(6, 2, 8, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=6)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    result = cim.evaluate_chips(trainer, model, loader, variation=cim.Gaussian(0.1), chips=2, k=50, progress=False)
    population = cim.ChipPopulation(model, cim.Gaussian(0.1))
    for index in range(2):
        with cim.on_chip(model, population[index]), torch.no_grad():
            expected = model.fc(torch.relu(model.conv(images)).view(6, -1)).mean() + images.mean()
        assert result.of("score")[index] == pytest.approx(float(expected), rel=1e-5)
