"""Which modules and arguments NeFT takes, and what it says of the others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.chip.scope import scope_of
from tests.callbacks.negative_feedback_toys import FLAVOUR, SIGMA, Dry, Spied, gradients, irs, ovf, reference
from tests.helpers.boring import FLAVOURS, assert_equal, data, fit, make


def test_automatic_stages_of_a_deeper_net():
    class Deep(Dry):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.net = nn.Sequential(
                nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU()
            )
            self.linear = nn.Linear(32, 3)

        def forward(self, x):
            return self.linear(self.net(x).flatten(1))

    model, blocks = make(FLAVOUR, Deep), []

    class Look(cim.NegativeFeedback):
        def on_before_optimizer_step(self, *args):
            super().on_before_optimizer_step(*args)
            blocks.extend(self.heads.blocks)

    fit(FLAVOUR, lambda _: {"callbacks": [Look(SIGMA, mode="irs")]}, model=model, max_epochs=1, limit_val_batches=0)
    assert {block.pooled for block in blocks} == {"net.2"}


class OwnLoss(Dry):
    def training_step(self, batch, batch_idx):
        raise AssertionError("asked although the module offers its logits")

    def cim_logits_and_target(self, batch):
        self.seen.append(self.weights())
        return self(batch[0]), batch[1]


def test_module_with_a_loss_of_its_own_offers_its_logits():
    model, clean = make(FLAVOUR, OwnLoss, lr=0.0), make(FLAVOUR, Dry)
    found = gradients(FLAVOUR, ovf(), model)
    for index, batch in enumerate(data()):
        for name, gradient in reference(clean, batch, index)[1].items():
            torch.testing.assert_close(found[index][name], gradient, rtol=1e-4, atol=1e-7, msg=name)
    assert not scope_of(model).is_open


class Checkpointed(Dry):
    def forward(self, x):
        x = checkpoint(lambda x: torch.relu(self.norm(self.conv(x))), x, use_reentrant=False)
        return self.linear(x.flatten(1))


class TwoLosses(Dry):
    def training_step(self, batch, batch_idx):
        logits = self(batch[0])
        return F.cross_entropy(logits, batch[1]) + F.mse_loss(logits, torch.zeros_like(logits))


class Probabilities(Dry):
    def training_step(self, batch, batch_idx):
        return F.binary_cross_entropy(self(batch[0]).sigmoid(), F.one_hot(batch[1], 3).float())


class Unknown(Dry):
    def training_step(self, batch, batch_idx):
        return self(batch[0]).logsumexp(1).mean()


class Regression(Dry):
    def training_step(self, batch, batch_idx):
        return F.mse_loss(self(batch[0]), F.one_hot(batch[1], 3).float())


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("base", "callback", "message"),
    [
        (TwoLosses, ovf, "two loss functions.*cim_logits_and_target"),
        (TwoLosses, irs, "two loss functions.*cim_logits_and_target"),
        (Probabilities, ovf, "input is no logit.*cim_logits_and_target"),
        (Unknown, ovf, "calls no loss function of torch.*cim_logits_and_target"),
        (Unknown, irs, "calls no loss function of torch.*cim_logits_and_target"),
        (Regression, ovf, "criterion is mse_loss; train with VariationInjection"),
        (Checkpointed, ovf, "activation checkpointing"),
    ],
)
def test_bad_modules(base, callback, message, flavour):
    model = make(flavour, base)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with pytest.raises(MisconfigurationException, match=message):
        fit(flavour, lambda _: {"callbacks": [callback()]}, model=model)
    assert_equal({name: parameter.detach() for name, parameter in model.named_parameters()}, before)
    assert "training_step" not in model.__dict__
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_checkpointing_is_fine_with_snapshots():
    model = make(FLAVOUR, Checkpointed)
    fit(FLAVOUR, lambda _: {"callbacks": [irs(stages=["norm"])]}, model=model)
    assert len(model.losses) == 8


def test_stage_that_is_not_found():
    with pytest.raises(MisconfigurationException, match=r"no submodule 'nrm'.*nearest: 'norm'"):
        fit(FLAVOUR, lambda _: {"callbacks": [irs(stages=["nrm"])]})
    with pytest.raises(MisconfigurationException, match="Name stages"):
        fit(FLAVOUR, lambda _: {"callbacks": [irs(stages=None)]})  # one stage only


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "ofv"}, "mode must be one of"),
        ({"scope": "stem"}, "scope must be one of"),
        ({"bn_update": "none"}, "bn_update must be one of"),
        ({"beta": -0.1}, "beta must be a finite number >= 0"),
        ({"beta": float("nan")}, "beta must be a finite number >= 0"),
        ({"offsets": ()}, "offsets must be numbers >= 0, at least one"),
        ({"offsets": (0.1, -0.1)}, "offsets must be numbers >= 0"),
        ({"stronger": [0.1]}, "stronger must be variations"),
        ({"variation": SIGMA + SIGMA}, "Composed does not have"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(MisconfigurationException, match=message):
        cim.NegativeFeedback(**{"variation": SIGMA, **kwargs})


def test_variations_without_sigma_name_the_stronger_ones():
    both = SIGMA + SIGMA
    callback = cim.NegativeFeedback(both, stronger=[both.scaled(2.0)])
    model = make(FLAVOUR, Spied)
    fit(FLAVOUR, lambda _: {"callbacks": [callback]}, model=model, max_epochs=1, limit_val_batches=0)
    assert len(model.forwards) == 2 * 4
