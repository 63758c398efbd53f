"""When a preliminary fit stops."""

import copy

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

import lightning_cim as cim
from lightning_cim.callbacks.convergence import PreliminaryConvergence
from tests.helpers.boring import FLAVOURS, Boring, Resumable, checkpoint_of, data, fit, make

FLAVOUR = FLAVOURS[0]


class Scripted(Boring):
    """Logs given scores, one an epoch."""

    def __init__(self, scores=(), **kwargs):
        super().__init__(**kwargs)
        self.scores = list(scores)

    def validation_step(self, batch, batch_idx):
        score = -1.0 if self.trainer.sanity_checking else self.scores[self.current_epoch]
        self.log("val/score", score)


def run(scores, flavour=FLAVOUR, max_epochs=10, **kwargs):
    callback = PreliminaryConvergence("val/score", **{"max_share": 1.0, **kwargs})
    noise = cim.VariationInjection(cim.Gaussian(sigma=0.1), validation_chips=1)
    found = fit(
        flavour,
        lambda _: {"callbacks": [noise, callback]},
        model=make(flavour, Scripted, scores=scores),
        max_epochs=max_epochs,
        limit_train_batches=1,
    )
    return found.trainer.current_epoch, callback


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("scores", "epochs", "arguments"),
    [
        ([0.5] * 10, 6, {}),  # the first, and five without a rise
        ([0.5, 0.501, 0.502, 0.502, 0.5, 0.4] + [1.0] * 4, 6, {}),  # rises of no more than 0.002 since the best
        ([0.5, 0.501, 0.5021] + [0.1] * 7, 8, {}),  # small steps add up to a rise
        ([0.1 * epoch for epoch in range(10)], 10, {}),
        ([0.5] * 10, 3, {"patience": 2}),
        ([1.0, 0.9, 0.8, 0.8, 0.8] + [0.0] * 5, 5, {"mode": "min", "patience": 2}),
        ([0.1 * epoch for epoch in range(10)], 2, {"max_share": 0.2}),
        ([0.1 * epoch for epoch in range(10)], 3, {"max_share": 0.21}),
        ([0.1 * epoch for epoch in range(10)], 1, {"max_share": 0.01}),
    ],
)
def test_when_it_stops(scores, epochs, arguments, flavour):
    reached, callback = run(scores, flavour, **arguments)
    assert reached == epochs
    assert callback.stopped_epoch == epochs - 1


def test_defaults_are_those_of_the_method():
    callback = PreliminaryConvergence("val/acc")
    assert (callback.mode, callback.min_delta, callback.patience, callback.max_share) == ("max", 0.002, 5, 0.2)


def test_a_resumed_fit_stops_at_the_same_epoch(tmp_path):
    scores = [0.5, 0.6] + [0.6] * 8

    def fitted(max_epochs, ckpt_path=None):
        callback = PreliminaryConvergence("val/score", patience=4, max_share=1.0)
        model = make(FLAVOUR, Scripted, scores=scores)
        noise = cim.VariationInjection(cim.Gaussian(sigma=0.1), validation_chips=1)
        kwargs = {"model": model, "train": Resumable(data()), "max_epochs": max_epochs, "ckpt_path": ckpt_path}
        return fit(FLAVOUR, lambda _: {"callbacks": [noise, callback]}, **kwargs).trainer

    first = fitted(4)
    torch.save(copy.deepcopy(checkpoint_of(first)), tmp_path / "half.ckpt")
    assert fitted(10).current_epoch == fitted(10, tmp_path / "half.ckpt").current_epoch == 6


def test_clean_validation_is_said():
    callback = PreliminaryConvergence("val/score")
    model = make(FLAVOUR, Scripted, scores=[0.5] * 2)
    with pytest.warns(UserWarning, match="judges by validation, which is on clean weights here"):
        fit(FLAVOUR, lambda _: {"callbacks": [callback]}, model=model)


def test_a_score_that_nobody_logs():
    callback = PreliminaryConvergence("val/sore")
    model = make(FLAVOUR, Scripted, scores=[0.5] * 2)
    noise = cim.VariationInjection(cim.Gaussian(sigma=0.1), validation_chips=1)
    with pytest.raises(MisconfigurationException, match=r"nothing logs 'val/sore'; there are .*'val/score'"):
        fit(FLAVOUR, lambda _: {"callbacks": [noise, callback]}, model=model)


@pytest.mark.parametrize(
    "arguments", [{"mode": "up"}, {"min_delta": -0.1}, {"patience": 0}, {"max_share": 0.0}, {"max_share": 1.5}]
)
def test_bad_arguments(arguments):
    with pytest.raises(MisconfigurationException, match=r"PreliminaryConvergence: .*must"):
        PreliminaryConvergence("val/acc", **arguments)
