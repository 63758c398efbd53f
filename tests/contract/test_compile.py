"""torch.compile: one graph, and yet a different chip in every step."""

import importlib

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.helpers.boring import FLAVOURS, Boring, Resumable, data, fit, make
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
