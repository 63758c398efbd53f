"""Trainer.validate, test and predict, ModelCheckpoint, and copies of the module, with each callback."""

import copy
import importlib

import pytest
import torch

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, MAPPED, STEPS, assert_equal, data, fit, make, make_trainer
from tests.helpers.cases import ALL, SIGMA, everything, injection, magnitude, monte_carlo, precision, sr_ste, strategy
from tests.helpers.checks import _parameters, assert_clean

CLEAN_EVALUATION = [injection, monte_carlo, strategy]


def run_loops(flavour, arrange, model):
    kwargs = arrange(flavour)
    trainer = make_trainer(flavour, **kwargs)
    return {
        "validate": trainer.validate(model, data(seed=3), verbose=False),
        "test": trainer.test(model, data(seed=3), verbose=False),
        "predict": trainer.predict(model, data(seed=3)),
    }


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_loops_leave_the_module_clean(arrange, flavour):
    model = make(flavour)
    before = _parameters(model)
    found = run_loops(flavour, arrange, model)
    assert_clean(model, before)
    assert len(found["predict"]) == len(data())
    if arrange in CLEAN_EVALUATION:
        plain = run_loops(flavour, lambda _: {}, make(flavour))
        for loop in ("validate", "test"):
            ours = {name: value for name, value in found[loop][0].items() if not name.startswith("cim/")}
            assert ours == plain[loop][0]
        assert_equal(found["predict"], plain["predict"])


@pytest.mark.parametrize("loop", ["validation_step", "test_step", "predict_step"])
@pytest.mark.parametrize("arrange", [precision, magnitude, everything])
def test_an_error_in_a_loop_leaves_the_module_clean(arrange, loop):
    model = make(FLAVOURS[0])
    before = _parameters(model)

    def fail(self, batch, batch_idx):
        raise RuntimeError("boom")

    model.__class__ = type("Failing", (type(model),), {loop: fail})
    verb = {"validation_step": "validate", "test_step": "test", "predict_step": "predict"}[loop]
    with pytest.raises(RuntimeError, match="boom"):
        getattr(make_trainer(FLAVOURS[0], **arrange(FLAVOURS[0])), verb)(model, data())
    assert_clean(model, before)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [magnitude, sr_ste])
def test_loops_compute_with_the_exported_weights(arrange, flavour):
    run = fit(flavour, arrange)
    found = run.trainer.predict(run.model, data(seed=3))
    exported = make(flavour)
    exported.load_state_dict(cim.export_state_dict(run.model, run.trainer.callbacks))
    assert (exported.linear.weight == 0).float().mean() == 0.5
    assert_equal(found, make_trainer(flavour).predict(exported, data(seed=3)))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_model_checkpoint_monitors_and_restores_the_best(arrange, flavour, tmp_path):
    metric = "cim/loss_kpp" if arrange in (monte_carlo, everything) else "val/loss"
    saver = importlib.import_module(f"{flavour}.callbacks").ModelCheckpoint(tmp_path, monitor=metric)
    run = fit(flavour, arrange, extra=[saver], enable_checkpointing=True, max_epochs=3)
    best = torch.load(saver.best_model_path, weights_only=True)["state_dict"]
    assert saver.best_model_score is not None
    run.trainer.validate(run.model, data(), ckpt_path="best", verbose=False)
    assert_equal({name: value.detach() for name, value in run.model.state_dict().items()}, dict(best))


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_train_batch_end", "on_validation_end"])
@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", ALL)
def test_a_copy_made_during_a_fit_is_a_plain_module(arrange, flavour, hook):
    copies = []

    def take(trainer, pl_module, *_):
        copies.append(copy.deepcopy(pl_module))

    copier = type("Copier", (importlib.import_module(flavour).Callback,), {hook: staticmethod(take)})()
    undisturbed = fit(flavour, arrange, max_epochs=1)
    run = fit(flavour, arrange, extra=[copier], max_epochs=1)
    assert run.model.losses == undisturbed.model.losses
    made = copies[-1].eval()
    plain = make(flavour)
    plain.load_state_dict(made.state_dict(), strict=True)
    (x, y) = next(iter(data(1)))
    assert torch.equal(made(x), plain.eval()(x)), "the copy computes with something else than its state_dict"
    seen = len(run.model.seen)
    made.training_step((x, y), 0)
    assert len(run.model.seen) == seen, "the copy's step is that of the original"
    assert_equal(made.seen[-1], {name: plain.get_parameter(name).detach() for name in MAPPED})
    # A copy can be trained by itself, with the same callbacks.
    fit(flavour, arrange, model=made.train(), max_epochs=1)
    again = copy.deepcopy(run.model)
    assert not [name for name in STEPS if name in again.__dict__]


def test_best_chip_metric_is_that_of_the_chips():
    callback = cim.MonteCarloEvaluation(SIGMA, chips=3, k=40)
    run = fit(FLAVOURS[0], lambda _: {"callbacks": [callback]})
    logged = run.trainer.callback_metrics
    sample = callback.result.of("val/loss")
    assert logged["cim/loss_mean"].item() == pytest.approx(sample.mean(), rel=1e-6)
    assert logged["cim/loss_worst"].item() == pytest.approx(sample.max(), rel=1e-6)
    assert logged["cim/loss_std"].item() == pytest.approx(sample.std(ddof=1), rel=1e-5)
