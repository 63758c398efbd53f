"""Beside EMAWeightAveraging, in either order."""

import importlib
import itertools

import pytest
import torch

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.chip.population import Chip
from tests.helpers.boring import FLAVOURS, assert_equal, data, fit, make
from tests.helpers.cases import ALL, SIGMA, injection, trice

DECAY = 0.7


def ema(flavour):
    callbacks = importlib.import_module(f"{flavour}.callbacks")
    if not hasattr(callbacks, "EMAWeightAveraging"):
        pytest.skip("this Lightning has no EMAWeightAveraging (new in 2.6)")
    return callbacks.EMAWeightAveraging(decay=DECAY)


def in_order(arrange, first):
    def arranged(flavour):
        kwargs = arrange(flavour)
        ours = kwargs.get("callbacks", [])
        return {**kwargs, "callbacks": [ema(flavour), *ours] if first else [*ours, ema(flavour)]}

    return arranged


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("first", [True, False])
def test_averages_of_one_of_three_weight_sets_are_refused(first, flavour):
    with pytest.raises(MisconfigurationException, match=r"RightCensoredTraining.*EMAWeightAveraging"):
        fit(flavour, in_order(trice, first))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [arrange for arrange in ALL if arrange is not trice])
def test_order_does_not_matter(arrange, flavour):
    runs = [fit(flavour, in_order(arrange, first)) for first in (True, False)]
    assert runs[0].model.losses == runs[1].model.losses
    assert_equal(dict(runs[0].model.state_dict()), dict(runs[1].model.state_dict()))
    assert list(runs[0].model.state_dict()) == list(make(flavour).state_dict())
    logged = [{name: value.item() for name, value in run.trainer.callback_metrics.items()} for run in runs]
    assert logged[0].keys() == logged[1].keys()
    for name, value in logged[0].items():
        assert value == pytest.approx(logged[1][name], nan_ok=True), name


@pytest.mark.parametrize("first", [True, False])
def test_averages_the_clean_weights(first):
    flavour, clean = FLAVOURS[0], []

    def look(trainer, pl_module, *_):
        clean.append({name: parameter.detach().clone() for name, parameter in pl_module.named_parameters()})

    watcher = type("Watcher", (importlib.import_module(flavour).Callback,), {"on_train_batch_end": staticmethod(look)})
    run = fit(flavour, in_order(injection, first), extra=[watcher()])
    average = clean[0]
    for weights in clean[1:]:
        average = {name: DECAY * average[name] + (1 - DECAY) * weights[name] for name in average}
    for name, parameter in run.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), average[name], msg=name)


@pytest.mark.parametrize("first", [True, False])
def test_noisy_validation_is_the_average_on_the_held_chip(first):
    flavour, sigma = FLAVOURS[0], cim.Gaussian(sigma=0.5)
    losses = {}
    for chips in (0, 1):
        callback = cim.VariationInjection(sigma, validation_chips=chips)
        run = fit(flavour, in_order(lambda _, callback=callback: {"callbacks": [callback]}, first))
        losses[chips] = run.trainer.callback_metrics["val/loss"].item()
    model = run.model.eval()  # after the fit it holds the averaged weights that the last validation saw
    expected = {}
    with torch.no_grad():
        expected[0] = sum(model.loss(batch).item() for batch in data(2, seed=2)) / 2
        with cim.on_chip(model, Chip(sigma, 0, 0, stream="validation")):
            expected[1] = sum(model.loss(batch).item() for batch in data(2, seed=2)) / 2
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("first", [True, False])
def test_chips_are_those_of_the_average(first):
    flavour = FLAVOURS[0]
    evaluation = cim.MonteCarloEvaluation(SIGMA, chips=2)
    run = fit(flavour, in_order(lambda _: {"callbacks": [evaluation]}, first))
    model = run.model.eval()
    for number, found in itertools.product(range(2), [evaluation.result.of("val/loss")]):
        with torch.no_grad(), cim.on_chip(model, Chip(SIGMA, 0, number, stream="validation")):
            expected = sum(model.loss(batch).item() for batch in data(2, seed=2)) / 2
        assert found[number] == pytest.approx(expected, rel=1e-5)
