"""What ``sensitivity`` leaves behind (nothing), and the states of a model that it copes with."""

import importlib
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.chip.scope import scope_of
from lightning_cim.programming.sensitivity import sensitivity
from tests.helpers.boring import FLAVOURS, data, fit, make
from tests.helpers.digits import digits, digits_cnn, digits_mlp, trained_digits
from tests.programming.references import Recurrent


class Broken(nn.Module):
    """Raises in the second batch."""

    def __init__(self):
        super().__init__()
        self.net, self.calls = digits_cnn(), 0

    def forward(self, x):
        self.calls += 1
        if self.calls == 2:
            raise RuntimeError("broken")
        return self.net(x)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("method", ["recursion", "gauss_newton", "hutchinson"])
def test_everything_is_given_back(method, fails):
    net = Broken() if fails else nn.Sequential(digits_cnn(), nn.Identity())
    net.train()
    cnn = net.net if fails else net[0]
    cnn[1].eval()  # a frozen norm
    cnn[0].weight.requires_grad_(False)
    cnn[3].weight.grad = torch.ones_like(cnn[3].weight)
    parameters = {name: (p, p.detach().clone(), p.requires_grad) for name, p in net.named_parameters()}
    buffers = {name: (b, b.clone()) for name, b in net.named_buffers()}
    flags = [module.training for module in net.modules()]
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    loader = DataLoader(digits()[2], batch_size=8, shuffle=True)
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            sensitivity(net, loader, method, max_batches=2, probes=1)
    else:
        sensitivity(net, loader, method, max_batches=2, probes=1)
    assert [module.training for module in net.modules()] == flags
    for name, p in net.named_parameters():
        before, value, required = parameters[name]
        assert p is before
        assert torch.equal(p, value)
        assert p.requires_grad == required
        assert (p.grad is None) == (name != next(n for n, q in net.named_parameters() if q is cnn[3].weight))
    assert torch.equal(cnn[3].weight.grad, torch.ones_like(cnn[3].weight))
    for name, b in net.named_buffers():
        assert b is buffers[name][0]
        assert torch.equal(b, buffers[name][1])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


@pytest.mark.parametrize("method", ["recursion", "gauss_newton", "hutchinson"])
def test_frozen_weights_are_measured_too(method):
    net, frozen = digits_cnn(), digits_cnn().requires_grad_(False)
    frozen.load_state_dict(net.state_dict())
    found, expected = (sensitivity(n, [digits()[0][:8]], method, probes=2).values for n in (frozen, net))
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_inside_no_grad_and_inference_mode():
    net, batch = digits_cnn(), digits()[0][:8]
    expected = sensitivity(net, [batch]).values["0.weight"]
    with torch.no_grad():
        assert torch.equal(sensitivity(net, [batch]).values["0.weight"], expected)
    with torch.inference_mode():
        assert torch.equal(sensitivity(net, [batch]).values["0.weight"], expected)


def test_recurrent_weights_are_given_back():
    net = Recurrent()
    listed = list(net.lstm._flat_weights)
    sensitivity(net, [digits()[0][:8]], "gauss_newton", probes=1)
    assert all(a is b for a, b in zip(net.lstm._flat_weights, listed, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_are_computed_in_single_precision(dtype):
    net = trained_digits(epochs=2).to(dtype)
    rounded = trained_digits(epochs=2).to(dtype).float()
    x, y = (part[:32] for part in digits()[0].tensors)
    expected = sensitivity(rounded, [(x.to(dtype).float(), y)]).values
    found = sensitivity(net, [(x.to(dtype), y)]).values
    for name, value in expected.items():
        assert torch.equal(found[name], value)
    assert {p.dtype for p in net.parameters()} == {dtype}
    assert net[1].running_mean.dtype == dtype


def test_compiled_networks():
    net, batch = digits_mlp(), digits()[0][:8]
    expected = sensitivity(net, [batch]).values
    found = sensitivity(torch.compile(net, backend="eager"), [batch])
    assert found.method == "recursion"
    for name, value in expected.items():
        assert torch.equal(found.values[name], value)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_variation_of_a_callback_is_off(flavour):
    module = make(flavour)
    expected = sensitivity(module, data()).values
    callback = cim.VariationInjection(cim.Gaussian(sigma=0.5))
    trainer = type("Trainer", (), {"global_rank": 0, "barebones": True})()
    callback.attach(trainer, module)
    callback.on_train_batch_start(trainer, module, None, 0)
    chain = scope_of(module).chain
    assert not chain[0].is_null
    found = sensitivity(module, data())
    assert scope_of(module).chain == chain
    assert not scope_of(module).is_open
    assert found.method == "recursion"
    for name, value in expected.items():
        torch.testing.assert_close(found.values[name], value)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("activation_bits", [None, 6])
def test_a_quantised_network_is_measured_at_its_quantised_weights(flavour, activation_bits):
    base = importlib.import_module(flavour).Callback
    seen = {}

    class Probe(base):
        def on_train_batch_end(self, trainer, module, *_):
            state = {name: value.clone() for name, value in module.state_dict().items()}
            seen["state"] = {**state, **scope_of(module).transformed()}
            seen["found"] = sensitivity(module, data())

    def quantised(flavour):
        return {"callbacks": [cim.MixedPrecision(weight_bits=4, activation_bits=activation_bits)]}

    fit(flavour, quantised, extra=[Probe()])
    assert seen["found"].method == "recursion"
    if activation_bits is None:
        plain = make(flavour)
        plain.load_state_dict(seen["state"])
        for name, value in sensitivity(plain, data()).values.items():
            torch.testing.assert_close(seen["found"].values[name], value)
