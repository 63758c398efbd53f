"""Layers that hold their weights in unusual ways, and modules that change while they train."""

import contextlib
import importlib

import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.chip.scope import scope_of
from tests.helpers.boring import BATCHES, FLAVOURS, Boring, assert_equal, data, fit, make
from tests.helpers.cases import SIGMA, injection, strategy
from tests.helpers.checks import check_clean_after_error

NOISY = [injection, strategy]
FLAVOUR = FLAVOURS[0]


class Recording(Boring):
    """Records the outputs of one fixed batch in each training step."""

    def __init__(self, **kwargs):
        super().__init__(**{"lr": 0.0, **kwargs})
        self.outputs = []
        self.build()

    def forward(self, x):
        return self.head(self.mix(x.flatten(2).transpose(1, 2)))  # (batch, 16, 1) in

    def weights(self):
        return {}

    def training_step(self, batch, batch_idx):
        (x, _) = next(iter(data(1)))
        with torch.no_grad():
            self.outputs.append(self(x))
        return super().training_step(batch, batch_idx)


class Attention(Recording):
    def build(self):
        self.embed, self.head = nn.Linear(1, 4), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def mix(self, x):
        x = self.embed(x)
        return self.attention(x, x, x)[0]


class Recurrent(Recording):
    def build(self):
        self.lstm, self.head = nn.LSTM(1, 4, batch_first=True), nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    def mix(self, x):
        return self.lstm(x)[0]


class Tied(Recording):
    def build(self):
        self.embed, self.unembed = nn.Linear(4, 8, bias=False), nn.Linear(8, 4, bias=False)
        self.back, self.head = nn.Linear(4, 8, bias=False), nn.Linear(32, 3)
        self.back.weight = self.embed.weight
        self.same_inside = []

    def mix(self, x):
        self.same_inside.append(self.embed.weight is self.back.weight)
        x = x.reshape(len(x), 4, 4)
        return self.back(self.unembed(self.embed(x))).flatten(1)


class Shared(Tied):
    """One module object at two places."""

    def build(self):
        super().build()
        self.back = self.embed


@pytest.mark.parametrize("arrange", NOISY)
@pytest.mark.parametrize(
    ("base", "include"),
    [
        (Attention, None),
        (Attention, "attention.out_proj.weight"),
        (Attention, "attention.in_proj_weight"),
        (Recurrent, None),
        (Recurrent, "lstm.weight_hh_l0"),
        (Tied, "embed.weight"),
        (Shared, "embed.weight"),
    ],
)
def test_every_step_computes_with_another_chip(base, include, arrange):
    mapping = None if include is None else cim.Mapping(targets=(), include=[include])

    def arranged(flavour):
        kwargs = arrange(flavour)
        if mapping is not None:
            kwargs = {"callbacks": [cim.VariationInjection(SIGMA, mapping)]}
        return kwargs

    model = make(FLAVOUR, base)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit(FLAVOUR, arranged, model=model)
    assert len({tuple(output.flatten().tolist()) for output in model.outputs}) == 2 * BATCHES
    assert_equal(dict(model.state_dict()), before)
    population = cim.ChipPopulation(model, SIGMA, mapping=mapping)
    assert not mapping or list(cim.chip_weights(model, population[0])) == [include]


@pytest.mark.parametrize("base", [Tied, Shared])
def test_tied_weights_share_one_draw(base):
    model = make(FLAVOUR, base)
    fit(FLAVOUR, injection, model=model)
    assert all(model.same_inside)
    assert model.embed.weight is model.back.weight
    assert "back.weight" not in cim.chip_weights(model, cim.ChipPopulation(model, SIGMA)[0])


@pytest.mark.parametrize("arrange", NOISY)
@pytest.mark.parametrize("place", [None, "training_step", "backward"])
def test_recurrent_layers_keep_no_noisy_copy(arrange, place):
    model = make(FLAVOUR, Recurrent)
    model.raise_in, model.error = place, RuntimeError("boom")
    seen = []

    def look(*_):
        flat, names = model.lstm._flat_weights, model.lstm._flat_weights_names
        seen.append(all(held is model.lstm.get_parameter(name) for held, name in zip(flat, names, strict=True)))

    # Lightning's teardown renews the list, so only a look during the fit can find a copy left in it.
    hooks = dict.fromkeys(("on_before_optimizer_step", "on_train_batch_end", "on_exception"), staticmethod(look))
    watcher = type("Watcher", (importlib.import_module(FLAVOUR).Callback,), hooks)()
    with contextlib.nullcontext() if place is None else pytest.raises(RuntimeError, match="boom"):
        fit(FLAVOUR, arrange, model=model, extra=[watcher])
    assert seen
    assert all(seen)
    clean = make(FLAVOUR, Recurrent)
    (x, _) = next(iter(data(1)))
    assert torch.equal(model.eval()(x), clean.eval()(x))


class Growing(Boring):
    """Replaces a parameter after the first epoch and a whole layer after the second."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.linear.weight = nn.Parameter(self.linear.weight.detach() * 2)
        if self.current_epoch == 2:
            self.linear = nn.Linear(16, 3)
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.param_groups[0]["params"] = list(self.parameters())


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_parameters_replaced_during_training_are_found_again(arrange, flavour):
    model = make(flavour, Growing, lr=0.0)
    fit(flavour, arrange, model=model, max_epochs=3)
    seen = [tuple(weights["linear.weight"].flatten().tolist()) for weights in model.seen]
    assert len(set(seen)) == 3 * BATCHES
    assert model.linear.weight.tolist() not in [weights["linear.weight"].tolist() for weights in model.seen]
    for start, factor in ((0, 1), (BATCHES, 2)):
        clean = factor * make(flavour).linear.weight.detach()
        shift = model.seen[start]["linear.weight"] - clean
        assert 0 < shift.std() / clean.abs().max() < 0.2  # sigma is 0.1
    assert type(model.linear.weight) is nn.Parameter
    assert scope_of(model).chain == ()


class Configured(Boring):
    """Makes its layers in configure_model, after the callbacks' setup."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.linear = None

    def configure_model(self):
        if self.linear is None:
            self.linear = nn.Linear(16, 3)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_modules_made_in_configure_model(arrange, flavour):
    model = make(flavour, Configured)
    fit(flavour, arrange, model=model)
    assert len({tuple(weights["linear.weight"].flatten().tolist()) for weights in model.seen}) == 2 * BATCHES
    assert model.linear.weight.tolist() not in [weights["linear.weight"].tolist() for weights in model.seen]


def test_a_replaced_layer_is_clean_after_an_error():
    check_clean_after_error(injection, FLAVOUR, "validation_step", RuntimeError("boom"))
