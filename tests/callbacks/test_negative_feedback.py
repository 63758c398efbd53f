"""NeFT against slow references: separate modules that hold the chips' weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import lightning_cim as cim
from tests.callbacks.negative_feedback_toys import (
    FLAVOUR,
    SIGMA,
    Dry,
    Spied,
    chip,
    gradients,
    irs,
    on_weights_of,
    ovf,
    reference,
)
from tests.helpers.boring import FLAVOURS, Boring, checkpoint_of, data, fit, make


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


@pytest.mark.parametrize("callback", [ovf, irs])
def test_bfloat16(callback):
    model = make(FLAVOUR)
    fit(FLAVOUR, lambda _: {"callbacks": [callback()]}, model=model, precision="bf16-mixed")
    assert len(model.losses) == 8
    assert all(torch.isfinite(torch.tensor(model.losses)))


@pytest.mark.parametrize("callback", [ovf, irs])
def test_compiled_step_trains_like_an_eager_one(callback):
    """Traced code would give the snapshot heads their clean weights."""

    def losses(model):
        fit(FLAVOUR, lambda _: {"callbacks": [callback()]}, model=model, max_epochs=1, limit_val_batches=0)
        return model.losses

    torch._dynamo.reset()
    assert losses(torch.compile(make(FLAVOUR, Dry), backend="eager")) == losses(make(FLAVOUR, Dry))
    torch._dynamo.reset()
