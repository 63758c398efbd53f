"""NeFT against slow references: separate modules that hold the chips' weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import scope_of
from tests.helpers.boring import FLAVOURS, MAPPED, Boring, assert_equal, checkpoint_of, data, fit, make

SIGMA = cim.Gaussian(0.1)
OFFSETS = (0.15, 0.10, 0.05)
FLAVOUR = FLAVOURS[0]


class Dry(Boring):
    """Without dropout, whose random numbers depend on the order of the passes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dropout = nn.Identity()


def ovf(**kwargs):
    return cim.NegativeFeedback(SIGMA, **{"mode": "ovf", "beta": 0.1, **kwargs})


def irs(**kwargs):
    return cim.NegativeFeedback(SIGMA, **{"mode": "irs", "beta": 0.1, "stages": ["conv", "norm"], **kwargs})


def chip(stream, index, sigma=0.1):
    return Chip(cim.Gaussian(sigma), 0, index, stream=stream, portable=False)


def gradients(flavour, callback, model, **kwargs):
    """What the optimizer gets at each step."""
    found = []
    step = model.optimizer_step

    def look(*args, **kwargs):
        closure = args[3] if len(args) > 3 else kwargs["optimizer_closure"]
        closure()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        return step(*args, **kwargs)

    model.optimizer_step = look
    fit(flavour, lambda _: {"callbacks": [callback]}, model=model, max_epochs=1, limit_val_batches=0, **kwargs)
    return found


def on_weights_of(model, programmed):
    """A separate module whose parameters are a chip's weights."""
    twin = copy.deepcopy(model)
    twin.load_state_dict(cim.export_state_dict(model, chip=programmed))
    return twin


def reference(model, batch, index, beta=0.1, scale=1.0):
    """Loss and gradients of OVF on batch ``index``, each pass on a module of its own."""
    passes = [chip("train/0", index)]
    passes += [chip(f"feedback{i}/0", index, 0.1 + offset) for i, offset in enumerate(OFFSETS)]
    twins = [on_weights_of(model, programmed) for programmed in passes]
    y, a, b, c = (twin(batch[0]) for twin in twins)
    loss = F.cross_entropy((y - beta * (a + 0.1 * b + 0.01 * c)) / 4, batch[1])
    (loss * scale).backward()
    names = dict(model.named_parameters())
    return loss.item(), {name: sum(dict(twin.named_parameters())[name].grad for twin in twins) for name in names}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_ovf_loss_and_gradient(flavour):
    model = make(flavour, Dry, lr=0.0)
    clean = copy.deepcopy(model)
    found = gradients(flavour, ovf(), model)
    for index, batch in enumerate(data()):
        loss, expected = reference(clean, batch, index)
        assert model.losses[2 * index] == pytest.approx(loss, abs=1e-6)  # the closure ran twice
        for name, gradient in expected.items():
            torch.testing.assert_close(found[index][name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_accumulation_averages_micro_batches():
    model = make(FLAVOUR, Dry, lr=0.0)
    clean = copy.deepcopy(model)
    seen = []
    step = type(model).on_before_optimizer_step

    def look(optimizer):
        seen.append({name: p.grad.clone() for name, p in model.named_parameters()})
        return step(model, optimizer)

    model.on_before_optimizer_step = look
    fit(FLAVOUR, lambda _: {"callbacks": [ovf()]}, model=model, max_epochs=1, accumulate_grad_batches=4)
    parts = [reference(clean, batch, index, scale=0.25)[1] for index, batch in enumerate(data())]
    [found] = seen
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, sum(part[name] for part in parts), rtol=1e-4, atol=1e-7, msg=name)


class Spied(Dry):
    """Notes the weights that every forward computes with."""

    def forward(self, x):
        self.forwards = [*getattr(self, "forwards", []), self.weights()]
        return super().forward(x)


def relative_errors(model, forwards):
    clean = model.weights()
    return [{n: (w[n] - clean[n]) / clean[n].abs().max() for n in MAPPED} for w in forwards]


@pytest.mark.parametrize("scope", ["all", "stem_head"])
def test_each_step_makes_four_independent_passes_at_their_sigmas(scope):
    """E10: every layer sees sigma + 0.15, + 0.10, + 0.05, then sigma; ``stem_head``: the first and last layer only."""

    class Deep(Spied):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.conv, self.middle = nn.Conv2d(1, 64, 3), nn.Linear(256, 64)
            self.norm = nn.BatchNorm2d(64)
            del self.linear  # so that it is registered behind the middle
            self.linear = nn.Linear(64, 3)

        def weights(self):
            return {
                name: getattr(self, name.split(".")[0]).weight.detach().clone()
                for name in ("conv.weight", "middle.weight", "linear.weight")
            }

        def forward(self, x):
            self.forwards = [*getattr(self, "forwards", []), self.weights()]
            return self.linear(self.middle(torch.relu(self.norm(self.conv(x))).flatten(1)))

    model = make(FLAVOUR, Deep, lr=0.0)
    fit(FLAVOUR, lambda _: {"callbacks": [ovf(scope=scope)]}, model=model, max_epochs=1, limit_val_batches=0)
    clean = model.weights()
    assert len(model.forwards) == 4 * 4
    errors = {name: torch.stack([w[name] - clean[name] for w in model.forwards]) for name in clean}
    for name, error in errors.items():
        stds = (error / clean[name].abs().max()).reshape(4, 4, -1).transpose(0, 1).reshape(4, -1).std(1)
        noisier = (0.25, 0.20, 0.15) if scope == "all" or name != "middle.weight" else (0.1, 0.1, 0.1)
        torch.testing.assert_close(stds, torch.tensor([*noisier, 0.1]), rtol=0.12, atol=0, msg=name)
        correlation = torch.corrcoef(error.reshape(16, -1)) - torch.eye(16)
        assert correlation.abs().max() < 0.35, name
    assert torch.corrcoef(errors["middle.weight"].reshape(16, -1)).sub(torch.eye(16)).abs().max() < 0.05


def test_batch_norm_follows_the_backbone_only_unless_asked():
    def statistics(**kwargs):
        model = make(FLAVOUR, Dry, lr=0.0)
        fit(FLAVOUR, lambda _: {"callbacks": [ovf(**kwargs)]}, model=model, max_epochs=1)
        return model.norm

    backbone, every = statistics(), statistics(bn_update="all")
    assert backbone.num_batches_tracked == 4
    assert every.num_batches_tracked == 16
    plain = make(FLAVOUR, Dry, lr=0.0)
    fit(FLAVOUR, lambda _: {"callbacks": [cim.VariationInjection(SIGMA)]}, model=plain, max_epochs=1)
    assert torch.equal(backbone.running_mean, plain.norm.running_mean)
    assert not torch.equal(every.running_mean, plain.norm.running_mean)


@pytest.mark.parametrize(("callback", "count"), [(ovf(beta=0.0), 3), (irs(beta=0.0), 2)])
def test_beta_zero_is_the_temperature_alone_at_the_cost_of_one_pass(callback, count):
    model = make(FLAVOUR, Spied, lr=0.0)
    fit(FLAVOUR, lambda _: {"callbacks": [callback]}, model=model, max_epochs=1, limit_val_batches=0)
    dry_runs = 1 if callback.mode == "irs" else 0
    assert len(model.forwards) == 4 + dry_runs
    clean = make(FLAVOUR, Dry, lr=0.0)
    for index, (x, y) in enumerate(data()):
        logits = on_weights_of(clean, chip("train/0", index))(x)
        expected = F.cross_entropy(logits / (count + 1), y).item()
        assert model.losses[index] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_irs_loss_and_gradient(flavour):
    """The heads' weights, noise and pooling are written out by hand."""
    model = make(flavour, Dry, lr=0.0)
    clean = copy.deepcopy(model)
    callback = irs()
    heads, slopes = [], []

    class Look(type(callback)):
        def on_train_batch_start(self, *args):
            super().on_train_batch_start(*args)
            heads.append(copy.deepcopy(self.heads.modules))

        def on_train_batch_end(self, *args):
            slopes.append([p.grad.clone() for p in self.heads.modules.parameters()])
            super().on_train_batch_end(*args)

    callback.__class__ = Look
    found = gradients(flavour, callback, model)
    for index, (x, y) in enumerate(data()):
        twin = on_weights_of(clean, chip("train/0", index))
        noisy = on_weights_of(heads[index], chip("heads/0", index))
        maps = [twin.conv(x)]
        maps.append(twin.norm(maps[0]))
        logits = twin.linear(torch.relu(maps[1]).flatten(1))
        side = [F.adaptive_avg_pool2d(m, 1).flatten(1) for m in maps]  # 4 channels of 2 x 2
        side = [h.layers[3](torch.relu(h.layers[1](s))) for h, s in zip(noisy, side, strict=True)]
        loss = F.cross_entropy((logits - 0.1 * (side[0] + 0.1 * side[1])) / 3, y)
        loss.backward()
        assert model.losses[2 * index] == pytest.approx(loss.item(), abs=1e-6)
        for name, parameter in twin.named_parameters():
            torch.testing.assert_close(found[index][name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
        for slope, parameter in zip(slopes[index], noisy.parameters(), strict=True):
            torch.testing.assert_close(slope, parameter.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_heads_are_trained_and_nowhere_in_the_model(flavour):
    """E11."""
    callback, model = irs(), make(flavour)
    plain = checkpoint_of(fit(flavour).trainer)
    seen = []

    class Look(type(callback)):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            seen.append([p.grad.abs().sum().item() for p in self.heads.modules.parameters()])
            seen.append([p.detach().clone() for p in self.heads.modules.parameters()])
            if len(seen) == 2:
                self.saved = checkpoint_of(trainer)

    callback.__class__ = Look
    run = fit(flavour, lambda _: {"callbacks": [callback]}, model=model)
    assert all(total > 0 for total in seen[0])
    assert not torch.equal(seen[1][0], seen[-1][0])
    for found in (callback.saved, checkpoint_of(run.trainer)):
        assert list(found["state_dict"]) == list(plain["state_dict"])
        groups = found["optimizer_states"][0]["param_groups"]
        assert groups == plain["optimizer_states"][0]["param_groups"]
        assert max(found["optimizer_states"][0]["state"], default=0) < 6
    assert list(cim.export_state_dict(model)) == list(plain["state_dict"])
    assert not model.conv._forward_hooks
    x = next(iter(data()))[0]
    model.eval()
    backbone = make(flavour).eval()
    backbone.load_state_dict(model.state_dict())
    assert torch.equal(model(x), backbone(x))


def test_heads_follow_a_schedule():
    class Scheduled(Boring):
        def configure_optimizers(self):
            optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
            return [optimizer], [torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=20)]

    callback = irs()
    run = fit(FLAVOUR, lambda _: {"callbacks": [callback]}, model=make(FLAVOUR, Scheduled))
    assert len(run.trainer.optimizers[0].param_groups) == 1
    assert len(run.trainer.optimizers[0].state) == 6


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


@pytest.mark.parametrize("callback", [ovf, irs])
def test_bfloat16(callback):
    model = make(FLAVOUR)
    fit(FLAVOUR, lambda _: {"callbacks": [callback()]}, model=model, precision="bf16-mixed")
    assert len(model.losses) == 8
    assert all(torch.isfinite(torch.tensor(model.losses)))


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


@pytest.mark.parametrize("callback", [ovf, irs])
def test_compiled_step_trains_like_an_eager_one(callback):
    """Traced code would give the snapshot heads their clean weights."""

    def losses(model):
        fit(FLAVOUR, lambda _: {"callbacks": [callback()]}, model=model, max_epochs=1, limit_val_batches=0)
        return model.losses

    torch._dynamo.reset()
    assert losses(torch.compile(make(FLAVOUR, Dry), backend="eager")) == losses(make(FLAVOUR, Dry))
    torch._dynamo.reset()
