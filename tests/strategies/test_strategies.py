"""The strategies by name and by class, in both Lightnings. What several processes do is tested in tests/ddp."""

import importlib

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy, StrategyRegistry

import lightning_cim as cim
from lightning_cim._compat import FLAVOURS
from lightning_cim.strategies import strategy_class
from tests.callbacks.test_variation_injection import Recording, assert_on_chips, train_chip
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer


def weights_after(**options):
    model = Recording(lr=0.5)
    trainer(**options).fit(model, loader(8))
    return model


def test_names_are_registered():
    assert {"cim", "cim_ddp"} <= set(StrategyRegistry.available_strategies())
    assert isinstance(StrategyRegistry.get("cim"), cim.CIMStrategy)
    assert isinstance(StrategyRegistry.get("cim_ddp"), cim.CIMDDPStrategy)


def test_classes_are_lightnings_own_with_a_mixin():
    assert issubclass(cim.CIMStrategy, SingleDeviceStrategy)
    assert issubclass(cim.CIMDDPStrategy, DDPStrategy)
    assert cim.CIMStrategy.__module__ == "lightning_cim.strategies"
    for name in ("variation", "validation_chips", "redraw_every_n_steps"):
        assert f"{name}:" in cim.CIMStrategy.__doc__


def test_strategy_and_callback_are_the_same_engine():
    by_strategy = weights_after(strategy=cim.CIMStrategy(VARIATION, seed=3, redraw_every_n_steps=2))
    by_callback = weights_after(callbacks=[cim.VariationInjection(VARIATION, seed=3, redraw_every_n_steps=2)])
    for name, value in by_strategy.state_dict().items():
        assert torch.equal(value, by_callback.state_dict()[name])


def test_the_name_alone_is_a_gaussian_of_a_tenth():
    model = Recording()
    trainer(strategy="cim").fit(model, loader(8))
    assert_on_chips(model, [train_chip(i, cim.Gaussian(0.1)) for i in range(6)])


def test_all_options_of_the_callback_are_there():
    strategy = cim.CIMStrategy(
        VARIATION, cim.Mapping(exclude=["net.0"]), 5, 2, True, warmup_steps=3, validation_chips=4
    )
    injection = strategy._injection
    assert (injection.variation, injection.seed, injection.redraw_every_n_steps) == (VARIATION, 5, 2)
    assert (injection.same_across_ranks, injection.warmup_steps, injection.validation_chips) == (True, 3, 4)
    assert injection.mapping == cim.Mapping(exclude=["net.0"])


def test_takes_the_accelerators_device():
    over = trainer(strategy="cim")
    assert over.strategy.root_device == torch.device("cpu")
    assert over.strategy.parallel_devices == [torch.device("cpu")]
    assert over.world_size == 1


def test_several_devices_on_one_are_refused():
    with pytest.raises(
        MisconfigurationException, match="strategy='cim' runs on one device, got devices=2; use strategy='cim_ddp'"
    ):
        trainer(strategy="cim", devices=2)


@pytest.mark.parametrize("strategy", ["cim", "cim_ddp"])
def test_not_together_with_the_callback(strategy):
    over = trainer(strategy=strategy, callbacks=[cim.VariationInjection(VARIATION)])
    with pytest.raises(
        MisconfigurationException, match=r"injects variation, and so does a VariationInjection .* Keep one"
    ):
        over.strategy.connect(_with_trainer(Classifier(), over))


def _with_trainer(model, over):
    model.trainer = over
    return model


def test_hardware_callbacks_join_in():
    model = Recording()
    sparse = cim.StructuredSparsity("2:4")
    trainer(strategy=cim.CIMStrategy(VARIATION), callbacks=[sparse]).fit(model, loader(8))
    assert all((seen == 0).sum() == 16 for seen in model.seen)


def test_fits_one_after_another_inject_once():
    model = Recording()
    over = trainer(strategy="cim")
    over.fit(model, loader(8))
    over.fit_loop.max_epochs = 2
    over.fit(model, loader(8))
    assert sum(isinstance(callback, cim.VariationInjection) for callback in over.callbacks) == 1


@pytest.mark.filterwarnings("ignore:.*chips are few.*")
def test_evaluation_draws_its_own_chips():
    model = Classifier()
    options = {"variation": VARIATION, "chips": 2, "progress": False}
    with_strategy = cim.evaluate_chips(trainer(strategy="cim"), model, loader(), **options)
    plain = cim.evaluate_chips(trainer(), model, loader(), **options)
    assert (with_strategy.values["test/loss"] == plain.values["test/loss"]).all()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", ["CIMStrategy", "CIMDDPStrategy"])
def test_both_lightnings_get_a_strategy_of_their_own_classes(flavour, name):
    strategy = strategy_class(name, flavour)(VARIATION)
    assert isinstance(strategy, importlib.import_module(f"{flavour}.strategies").Strategy)
    assert strategy_class(name, flavour) is type(strategy)
    package = importlib.import_module(flavour)
    over = package.Trainer(accelerator="cpu", strategy=strategy, logger=False, enable_checkpointing=False, devices=1)
    assert over.strategy is strategy
