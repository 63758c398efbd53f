"""torch.compile: one graph, and yet a different chip in every step."""

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, Boring, Resumable, data, fit, make, make_trainer
from tests.helpers.cases import injection, strategy

STEPS = 20


class Compilable(Boring):
    """Logs and records nothing inside the step; sigma is the only thing that changes between equal batches."""

    def __init__(self, **kwargs):
        super().__init__(lr=0.0, **kwargs)
        self.dropout, self.norm = nn.Identity(), nn.Identity()

    def training_step(self, batch, batch_idx):
        return self.loss(batch)


class CompiledInside(Compilable):
    def __init__(self, backend):
        super().__init__()
        self.conv = torch.compile(nn.Sequential(self.conv, nn.ReLU()), backend=backend)


def losses_of(flavour, arrange, model):
    losses = []

    def look(trainer, pl_module, outputs, batch, batch_idx):
        losses.append(outputs["loss"].item())

    base = importlib.import_module(flavour).Callback
    watcher = type("Watcher", (base,), {"on_train_batch_end": staticmethod(look)})()
    (batch,) = data(1)
    train = Resumable([batch] * STEPS)
    fit(flavour, arrange, model=model, train=train, extra=[watcher], max_epochs=1, limit_val_batches=0)
    return losses


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [injection, strategy])
def test_compiled_module(arrange, flavour, backend):
    losses = losses_of(flavour, arrange, torch.compile(make(flavour, Compilable), backend=backend))
    assert len(set(losses)) == STEPS
    assert backend.frame_count == 1


@pytest.mark.parametrize("arrange", [injection, strategy])
def test_compiled_submodule(arrange, backend):
    model = make(FLAVOURS[0], CompiledInside, backend=backend)
    losses = losses_of(FLAVOURS[0], arrange, model)
    assert len(set(losses)) == STEPS
    assert backend.frame_count == 1


def test_equal_batches_give_equal_losses_without_noise(backend):
    losses = losses_of(FLAVOURS[0], lambda _: {}, torch.compile(make(FLAVOURS[0], Compilable), backend=backend))
    assert len(losses) == STEPS
    assert len(set(losses)) == 1


def test_chips_of_a_compiled_module(backend):
    model, clean = make(FLAVOURS[0], Boring), make(FLAVOURS[0], Boring)
    trainer = make_trainer(FLAVOURS[0])
    how = {"variation": cim.Gaussian(0.1), "chips": 2, "stage": "validate", "progress": False}
    found = cim.evaluate_chips(trainer, torch.compile(model, backend=backend), data(2), **how)
    expected = cim.evaluate_chips(trainer, clean, data(2), **how)
    assert found.metrics == expected.metrics
    for name in expected.metrics:
        np.testing.assert_array_equal(found.of(name), expected.of(name))


def test_monte_carlo_during_the_fit_of_a_compiled_module(backend):
    def chips_of(model):
        callback = cim.MonteCarloEvaluation(cim.Gaussian(0.1), chips=2)
        fit(FLAVOURS[0], lambda _: {}, model=model, extra=[callback], max_epochs=1)
        return callback.result.of("val/loss")

    plain = chips_of(make(FLAVOURS[0], Compilable))
    assert len(set(plain)) == 2
    np.testing.assert_allclose(chips_of(torch.compile(make(FLAVOURS[0], Compilable), backend=backend)), plain)


def test_heads_see_a_network_that_was_compiled_before(backend):
    def train(callback):
        model = torch.compile(make(FLAVOURS[0], Compilable), backend=backend)
        fit(FLAVOURS[0], lambda _: {}, model=model, extra=[callback], max_epochs=1, limit_val_batches=0)

    train(cim.VariationInjection(cim.Gaussian(0.1)))
    heads = cim.NegativeFeedback(cim.Gaussian(0.1), mode="irs", stages=["conv"])
    train(heads)
    assert heads.state_dict()["heads"]
