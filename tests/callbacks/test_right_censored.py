"""TRICE's search inside one fit, against plain loops written separately and scripted scores."""

import copy
import importlib
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.judging import Judge, Score
from lightning_cim.callbacks.right_censored import RightCensoredTraining
from lightning_cim.callbacks.weight_sets import tensors_of
from lightning_cim.chip.interval import SETS, Interval
from lightning_cim.chip.population import draw_seed
from tests.callbacks.right_censored_toys import SETTINGS, SIGMA, Tiny, probe_class, tiny_net
from tests.helpers.boring import FLAVOURS, Boring, assert_equal, data, fit, make


@pytest.fixture
def script(monkeypatch):
    """Replaces the judge by scripted scores, one triple (left, mid, right) a selection."""

    def install(*triples):
        scores = iter([score for triple in triples for score in triple])
        monkeypatch.setattr(Judge, "__init__", lambda self, *_: None)
        monkeypatch.setattr(
            Judge, "scores", lambda self, sets: {name: Score(next(scores), "val/acc", False, {}) for name in sets}
        )

    return install


def searched(search, base=Boring, flavour=FLAVOURS[0], **kwargs):
    probe = probe_class(flavour)(search)
    run = fit(flavour, lambda _: {"callbacks": [search]}, model=make(flavour, base), extra=[probe], **kwargs)
    return probe, run


def plain_loops(start, batches, sigmas_and_winners, seed, cutoff):
    """Each set by a loop of its own: draw, deviate, gradient at the deviated point, SGD with momentum by hand."""
    sets = {name: {key: value.clone() for key, value in start.items()} for name in SETS}
    momenta = {name: {key: torch.zeros_like(value) for key, value in start.items()} for name in SETS}
    streams = {"left": "train-left/0", "mid": "train/0", "right": "train-right/0"}
    net, index, trained = tiny_net(), 0, []
    for sigmas, winner in sigmas_and_winners:
        for x, y in batches:
            for name, sigma in zip(SETS, sigmas, strict=True):
                weights = sets[name]
                deviated = {}
                for key, value in weights.items():
                    deviated[key] = value.clone()
                    if key.endswith("weight"):
                        generator = torch.Generator().manual_seed(draw_seed(seed, streams[name], index, f"net.{key}"))
                        z = torch.randn(value.shape, generator=generator)
                        deviated[key] += sigma * value.abs().max() * torch.minimum(z, torch.tensor(cutoff))
                    deviated[key].requires_grad_()
                loss = nn.functional.cross_entropy(functional_call(net, deviated, x.flatten(1)), y)
                grads = dict(zip(deviated, torch.autograd.grad(loss, list(deviated.values())), strict=True))
                for key in weights:
                    momenta[name][key] = 0.9 * momenta[name][key] + grads[key]
                    weights[key] = weights[key] - 0.2 * momenta[name][key]
            index += 1
        trained.append({name: dict(weights) for name, weights in sets.items()})
        for name in SETS:
            sets[name] = {key: value.clone() for key, value in trained[-1][winner].items()}
    return trained


def test_three_plain_loops_give_the_same_weights(script):
    script((1, 2, 3), (3, 2, 1), (1, 1, 1))
    model = make(FLAVOURS[0], Tiny)
    start = {key.removeprefix("net."): value.clone() for key, value in tensors_of(model).items()}
    search = RightCensoredTraining(SIGMA, sigma_max=0.8, cutoff=1.0, seed=4)
    probe = probe_class(FLAVOURS[0])(search)
    loader = data(batches=6)
    fit(FLAVOURS[0], lambda _: {"callbacks": [search]}, model=model, train=loader, extra=[probe], max_epochs=3)
    sigmas_and_winners = [((0.2, 0.4, 0.6), "right"), ((0.35, 0.5, 0.65), "left"), ((0.3125, 0.425, 0.5375), "mid")]
    assert [row.sigmas for row in search.history] == [pytest.approx(sigmas) for sigmas, _ in sigmas_and_winners]
    expected = plain_loops(start, list(loader), sigmas_and_winners, seed=4, cutoff=1.0)
    assert len(probe.trained) == 3
    for found, wanted in zip(probe.trained, expected, strict=True):
        for name in SETS:
            for key, value in wanted[name].items():
                torch.testing.assert_close(found[name][f"net.{key}"], value, rtol=0, atol=1e-6)
    assert not torch.equal(expected[1]["left"]["0.weight"], expected[1]["mid"]["0.weight"])


def test_the_winner_is_copied_into_all_and_the_interval_follows(script):
    script((3, 2, 1), (1, 3, 2), (0, 1, 2))
    search = RightCensoredTraining(SIGMA, sigma_max=1.0)
    probe, _ = searched(search, max_epochs=3)
    winners = ("left", "mid", "right")
    assert [row.winner for row in search.history] == list(winners)
    assert [(row.low, row.high) for row in search.history] == [(0.0, 1.0), (0.0, 0.75), (0.1875, 0.5625)]
    assert search.interval == Interval(0.28125, 0.5625)
    for trained, selected, winner in zip(probe.trained, probe.selected, winners, strict=True):
        assert not torch.equal(trained["left"]["conv.weight"], trained["right"]["conv.weight"])
        assert not torch.equal(trained["left"]["norm.running_mean"], trained["right"]["norm.running_mean"])
        for name in SETS:
            assert_equal(selected[name], trained[winner], name)


def test_optimizer_states_are_not_copied(script):
    script((1, 2, 3))
    search = RightCensoredTraining(SIGMA)
    states = {}

    class Look(importlib.import_module(FLAVOURS[0]).Callback):
        def keep(self, trainer, when):
            optimizers = {"mid": trainer.optimizers[0], **{n: t._optimizer for n, t in search._twins.items()}}
            states[when] = {name: copy.deepcopy(one.state_dict()["state"]) for name, one in optimizers.items()}

        def on_validation_start(self, trainer, pl_module):
            self.keep(trainer, "before")

        def on_validation_end(self, trainer, pl_module):
            self.keep(trainer, "after")

    fit(FLAVOURS[0], lambda _: {"callbacks": [search, Look()]}, max_epochs=1, num_sanity_val_steps=0)
    assert_equal(states["after"], states["before"])
    buffers = [states["after"][name][0]["momentum_buffer"] for name in SETS]
    assert not torch.equal(buffers[0], buffers[1])
    assert not torch.equal(buffers[1], buffers[2])


def test_the_best_weights_are_restored(script):
    script((0, 5, 0), (0, 0, 9), (7, 0, 0))
    search = RightCensoredTraining(SIGMA)
    probe, run = searched(search, max_epochs=3)
    assert search.history.best is search.history[1]
    assert_equal(tensors_of(run.model), probe.trained[1]["right"])
    assert search._twins == {}


def test_one_set_trains_on_below_the_tolerance(script):
    script((0, 1, 0), (0, 1, 0), (5, 6, 7))
    search = RightCensoredTraining(SIGMA, sigma_max=0.4, tolerance=0.15)
    probe, run = searched(search, max_epochs=4, num_sanity_val_steps=0)
    assert [len(sets) for sets in probe.selected] == [3, 1, 1, 1]
    assert search.history[2].scores == (None, 5, None)
    assert (search.interval.low, search.interval.high) == pytest.approx((0.15, 0.25))
    assert run.trainer.callback_metrics["cim/sigma"] == pytest.approx(0.2)


def losses(callback, flavour=FLAVOURS[0], **kwargs):
    return fit(flavour, lambda _: {"callbacks": [callback]}, **kwargs).model.losses


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_without_cut_one_set_is_gaussian_injection_bit_for_bit(flavour):
    """E7, for training."""
    search = RightCensoredTraining(
        SIGMA, sigma_max=0.2, cutoff=math.inf, tolerance=1.0, refresh_batchnorm=False, seed=3, **SETTINGS
    )
    assert losses(search, flavour) == losses(cim.VariationInjection(cim.Gaussian(sigma=0.1), seed=3), flavour)


def test_the_other_sets_do_not_disturb_the_users_module():
    search = RightCensoredTraining(SIGMA, warmup_epochs=2, refresh_batchnorm=False, seed=3, **SETTINGS)
    plain = cim.VariationInjection(cim.RightCensoredGaussian(sigma=0.1), seed=3)
    train = data(shuffle=True)
    assert losses(search, train=train, max_epochs=3)[:8] == losses(plain, train=train, max_epochs=3)[:8]


def test_warm_up_scores_and_does_not_select():
    search = RightCensoredTraining(SIGMA, warmup_epochs=1, **SETTINGS)
    probe, run = searched(search, max_epochs=2)
    first, second = search.history
    assert first.winner is None
    assert first.scores[0] is first.scores[2] is None
    assert first.scores[1] == first.score
    assert not torch.equal(probe.selected[0]["left"]["conv.weight"], probe.selected[0]["right"]["conv.weight"])
    assert (second.low, second.high) == (first.low, first.high)
    assert second.winner in SETS
    assert None not in second.scores
    assert run.trainer.callback_metrics["cim/acc_kpp"] == pytest.approx(second.score)


def test_several_metrics_to_choose_from_are_refused():
    class Two(Boring):
        def validation_step(self, batch, batch_idx):
            super().validation_step(batch, batch_idx)
            self.log("val/f1", 0.5, batch_size=1)

    with pytest.raises(MisconfigurationException, match=r"monitor=None: which of these .*val/acc.*val/f1"):
        fit(FLAVOURS[0], lambda _: {"callbacks": [RightCensoredTraining(SIGMA, chips=1)]}, model=make(FLAVOURS[0], Two))


def test_mean_shift_is_added_to_what_is_restored(script):
    script((0, 1, 0), (0, 0, 9))
    search = RightCensoredTraining(SIGMA, sigma_max=0.4, cutoff=0.5, deploy_mean_shift="add")
    probe, run = searched(search)
    trained = probe.trained[1]["right"]["linear.weight"]
    shift = cim.RightCensoredGaussian(search.history[1].sigmas[2], cutoff=0.5).mean * trained.abs().max()
    torch.testing.assert_close(run.model.linear.weight.detach(), trained + shift)
    assert torch.equal(probe.selected[1]["mid"]["linear.weight"], trained)
