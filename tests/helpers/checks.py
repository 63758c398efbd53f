"""The promises as functions that raise AssertionError, so that a broken callback can be shown to fail them.

Each takes an arrangement (a function of the flavour that returns keyword arguments of a Trainer) and a flavour.
"""

import contextlib
import copy
import importlib
import signal
from functools import lru_cache

import torch

from lightning_cim.chip.scope import scope_of
from tests.helpers.boring import BATCHES, STEPS, Resumable, assert_equal, checkpoint_of, data, fit, make

HOOKS = (
    "on_fit_start",
    "on_train_batch_start",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_epoch_end",
)
PLACES = ("training_step", "backward", "validation_step", *HOOKS)


def check_invisible(arrange, flavour):
    """Promise 1: not one bit of losses, weights, optimizer, checkpoint layout or random state is different."""
    plain_losses, plain, plain_rng = _plain_run(flavour)
    run = fit(flavour, arrange, train=data(shuffle=True))
    found = checkpoint_of(run.trainer)
    assert run.model.losses == plain_losses, "training losses differ"
    assert list(found) == list(plain), "top-level keys of the checkpoint differ"
    assert list(found["state_dict"]) == list(plain["state_dict"]), "keys of the state_dict differ"
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "loops"):
        assert_equal(found[part], plain[part], part)
    assert torch.equal(run.rng, plain_rng), "the global random state differs"
    assert_equal(checkpoint_of(run.trainer, weights_only=True)["state_dict"], plain["state_dict"], "weights only")


@lru_cache
def _plain_run(flavour):
    run = fit(flavour, train=data(shuffle=True))
    return run.model.losses, checkpoint_of(run.trainer), run.rng


def check_clean_after_fit(arrange, flavour):
    """Promise 3, normal end: with a learning rate of 0 every parameter is what it was."""
    model = make(flavour, lr=0.0)
    before = _parameters(model)
    fit(flavour, arrange, model=model)
    assert len(model.losses) == 2 * BATCHES
    assert_clean(model, before)


def check_clean_after_error(arrange, flavour, place, error):
    """Promise 3, errors: weights clean and steps unwrapped after an error at a place, and a following fit works."""
    model = make(flavour, lr=0.0)
    before = _parameters(model)
    model.raise_in, model.error = place, error
    bomb = bomb_class(flavour)(model, place)
    arranged = arrange(flavour)
    arranged["callbacks"] = [bomb, *arranged.get("callbacks", [])]
    _fit_into(error, lambda: fit(flavour, lambda _: arranged, model=model, val_check_interval=2))
    assert model.raise_in is None, f"nothing was raised at {place}"
    assert_clean(model, before)
    again = {**arrange(flavour), "callbacks": arranged["callbacks"]}
    model.losses.clear()
    fit(flavour, lambda _: again, model=model, max_epochs=1, limit_train_batches=2)
    assert len(model.losses) == 2
    assert_clean(model, before)


def _fit_into(error, run):
    handler = signal.getsignal(signal.SIGINT)
    try:
        # Lightning turns a KeyboardInterrupt into SystemExit, and once returned normally.
        expected = (SystemExit, KeyboardInterrupt) if isinstance(error, KeyboardInterrupt) else type(error)
        with contextlib.suppress(expected):
            run()
    finally:
        signal.signal(signal.SIGINT, handler)


@lru_cache
def bomb_class(flavour):
    """A callback that raises the module's error in a hook."""
    base = importlib.import_module(flavour).Callback

    class Bomb(base):
        def __init__(self, model, place):
            super().__init__()
            if place in HOOKS:
                setattr(self, place, lambda *_, **__: model.explode(place))

    return Bomb


def _parameters(model):
    return {name: (parameter, parameter.detach().clone()) for name, parameter in model.named_parameters()}


def assert_clean(model, before):
    """Nothing of ours is left on the module, and its parameters are the same objects with the same bits."""
    after = dict(model.named_parameters())
    assert list(after) == list(before)
    for name, (parameter, value) in before.items():
        assert after[name] is parameter, f"{name} was replaced"
        assert torch.equal(after[name], value), f"{name} changed by {(after[name] - value).abs().max().item():.3g}"
    left = [name for name in STEPS if name in model.__dict__]
    assert not left, f"still wrapped: {left}"
    for name, module in model.named_modules():
        assert not module._forward_hooks, f"{name} has forward hooks"
        assert not module._forward_pre_hooks, f"{name} has forward pre-hooks"
    assert scope_of(model).chain == ()
    assert not scope_of(model).is_open


def check_resume(arrange, flavour, folder):
    """Promise 4: resumed at an epoch's end and in the middle of one, a run goes on exactly as if never stopped."""
    checkpoint = importlib.import_module(f"{flavour}.callbacks").ModelCheckpoint
    savers = [
        checkpoint(folder, "step-{step}", every_n_train_steps=6, save_top_k=-1),
        checkpoint(folder, "epoch-{epoch}", every_n_epochs=1, save_top_k=-1, save_on_train_epoch_end=True),
    ]
    settings = {"max_epochs": 3, "enable_checkpointing": True}
    model = make(flavour, reseed=True)
    full = fit(flavour, arrange, model=model, train=Resumable(data()), extra=savers, **settings)
    expected = checkpoint_of(full.trainer)
    for name, done in (("step-step=6", 6), ("epoch-epoch=0", BATCHES)):
        resumed = fit(
            flavour,
            arrange,
            model=make(flavour, reseed=True, seed=5),
            train=Resumable(data()),
            ckpt_path=folder / f"{name}.ckpt",
            extra=[copy.deepcopy(saver) for saver in savers],
            seed=9,
            **settings,
        )
        assert resumed.model.losses == full.model.losses[done:], f"losses differ after {name}"
        found = checkpoint_of(resumed.trainer)
        for part in ("state_dict", "optimizer_states"):
            assert_equal(found[part], expected[part], f"{part} after {name}")
        assert_equal(_our_states(found), _our_states(expected), f"callback states after {name}")


def _our_states(checkpoint):
    return {key: state for key, state in checkpoint["callbacks"].items() if not key.startswith("ModelCheckpoint")}


def check_clean_for_others(arrange, flavour):
    """What runs between backward and the next step (clipping, other callbacks, the optimizer) sees clean weights."""
    base = importlib.import_module(flavour).Callback
    model = make(flavour, lr=0.0)
    before = model.weights()
    hooks = ("on_before_optimizer_step", "on_train_batch_end")
    reached = []

    def look(*_, **__):
        reached.append(None)
        assert_equal(model.weights(), before, "weights outside the step")

    watcher = type("Watcher", (base,), {hook: look for hook in hooks})()
    fit(flavour, arrange, model=model, extra=[watcher], max_epochs=1)
    assert len(reached) == len(hooks) * BATCHES
