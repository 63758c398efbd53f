"""The methods without Lightning: ``chip``, ``evaluation`` and ``programming`` alone give the same numbers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, Boring, assert_equal, data, fit, make

SIGMA = cim.Gaussian(0.1)
OFFSETS = (0.15, 0.10, 0.05)


class Dry(Boring):
    """Without dropout: a plain loop would draw its numbers in another order."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = nn.Identity()


class Plain(nn.Module):
    """The same network, by the same names, as a module of torch."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(16, 3)

    def forward(self, x):
        return self.linear(torch.relu(self.norm(self.conv(x))).flatten(1))


def pair(flavour):
    lightning = make(flavour, Dry)
    plain = Plain()
    plain.load_state_dict(lightning.state_dict())
    return lightning, plain


def chip(stream, index, sigma=0.1):
    return cim.Chip(cim.Gaussian(sigma), 0, index, stream=stream, portable=False)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_negative_feedback(flavour):
    lightning, plain = pair(flavour)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    for index, (x, y) in enumerate([*data(), *data()]):
        feedback = []
        for i, offset in enumerate(OFFSETS):
            statistics = copy.deepcopy(plain.norm.state_dict())
            with cim.on_chip(plain, chip(f"feedback{i}/0", index, 0.1 + offset)):
                feedback.append(plain(x))
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                setattr(plain.norm, name, statistics[name])
        with cim.on_chip(plain, chip("train/0", index)):
            logits = plain(x)
        optimizer.zero_grad()
        F.cross_entropy(cim.feedback_logits(logits, feedback, beta=0.1), y).backward()
        optimizer.step()
    fit(flavour, lambda _: {"callbacks": [cim.NegativeFeedback(SIGMA, beta=0.1)]}, model=lightning)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(lightning.state_dict()[name], value, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_selective_write_verify(flavour):
    found = []
    for model in pair(flavour):
        sensitivity = cim.sensitivity(model, data())
        report = cim.program(
            model, data(), SIGMA, max_drop=0.0, validation=data(2, seed=2), granularity=0.25, chips=3, progress=False
        )
        found.append((sensitivity.method, dict(sensitivity.values), report))
    (method, values, report), (other_method, other_values, other_report) = found
    assert method == other_method == "recursion"
    assert_equal(values, other_values)
    assert str(report) == str(other_report)
    assert report.stops.tolist() == other_report.stops.tolist()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("method", ["sign", "lagrange"])
def test_worst_case(method, flavour):
    settings = {"bound": 0.2, "method": method, "steps": 2, "rounds": 2, "evaluate_on": data(2, seed=2)}
    found, other = (cim.worst_case(model, data(), **settings, progress=False) for model in pair(flavour))
    assert found.worst == other.worst
    assert str(found) == str(other)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_logits_over_chips(flavour):
    lightning, plain = pair(flavour)
    (found, target), (other, _) = (cim.chip_logits(model, data(), SIGMA, chips=3) for model in (lightning, plain))
    assert torch.equal(found, other)
    accuracy = (found.argmax(-1) == target).double().mean(1)
    trainer = fit(flavour, model=make(flavour, Dry, lr=0.0), max_epochs=1).trainer
    result = cim.evaluate_chips(trainer, lightning, data(), variation=SIGMA, chips=3, k=90, progress=False)
    np.testing.assert_allclose(accuracy, result.of("test/acc"), atol=1e-6)
