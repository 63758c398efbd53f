"""Scores of weight sets against chips simulated by hand, and batch-norm statistics against averages by hand."""

import copy

import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.judging import Judge, Yardstick, with_mean_shift
from lightning_cim.callbacks.weight_sets import tensors_of
from lightning_cim.chip.interval import SETS
from lightning_cim.chip.population import Chip
from tests.helpers.boring import FLAVOURS, assert_equal, data, fit

SIGMA = cim.Gaussian(sigma=0.1)


def score(run, yardstick, training=None, model=None):
    model = run.model if model is None else model
    return Judge(run.trainer, run.model, yardstick, training).scores({"mid": tensors_of(model)})["mid"]


@pytest.fixture(scope="module")
def finished():
    return fit(FLAVOURS[0], max_epochs=1)


class TestJudge:
    """On a trainer after a fit."""

    def test_scores_are_percentiles_over_validation_chips(self, finished):
        model = copy.deepcopy(finished.model).eval()
        yardstick = Yardstick(SIGMA, 7, 30.0, "val/acc", seed=2, refresh_batchnorm=False)
        found = score(finished, yardstick)
        accuracies = []
        for index in range(7):
            with torch.no_grad(), cim.on_chip(model, Chip(SIGMA, 2, index, stream="validation")):
                hits = [(model(x).argmax(1) == y).float() for x, y in data(2, seed=2)]
                accuracies.append(torch.cat(hits).mean())
        assert len(set(accuracies)) > 2
        assert found.value == pytest.approx(torch.quantile(torch.stack(accuracies), 0.3).item())
        assert found.statistics == {}
        assert not found.lower_is_better

    def test_statistics_are_plain_averages_on_clean_weights(self, finished):
        found = score(finished, Yardstick(SIGMA, 1)).statistics
        with torch.no_grad():
            batches = [finished.model.conv(x).transpose(0, 1).flatten(1) for x, _ in data()]
        means, variances = zip(*[(batch.mean(1), batch.var(1)) for batch in batches], strict=True)
        assert set(found) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
        torch.testing.assert_close(found["norm.running_mean"], torch.stack(means).mean(0))
        torch.testing.assert_close(found["norm.running_var"], torch.stack(variances).mean(0))

    def test_refreshed_statistics_are_scored(self, finished):
        other = copy.deepcopy(finished.model)
        other.norm.running_mean.fill_(100.0)
        yardstick = Yardstick(SIGMA, 3, monitor="val/loss")
        assert score(finished, yardstick, model=other).value == score(finished, yardstick).value
        stale = Yardstick(SIGMA, 3, monitor="val/loss", refresh_batchnorm=False)
        assert score(finished, stale, model=other).value != score(finished, stale).value

    def test_nothing_of_the_run_is_changed(self, finished):
        torch.manual_seed(3)
        before = {key: tensor.clone() for key, tensor in tensors_of(finished.model).items()}
        metrics, rng = dict(finished.trainer.callback_metrics), torch.get_rng_state()
        steps, stage = len(finished.model.losses), finished.trainer.state.stage
        score(finished, Yardstick(SIGMA, 2))
        assert_equal(tensors_of(finished.model), before)
        assert finished.trainer.callback_metrics == metrics
        assert finished.trainer.state.stage is stage
        assert torch.equal(torch.get_rng_state(), rng)
        assert len(finished.model.losses) == steps

    def test_frozen_norms_keep_their_statistics(self, finished):
        training = [not isinstance(part, nn.BatchNorm2d) for part in finished.model.modules()]
        assert score(finished, Yardstick(SIGMA, 1), training).statistics == {}

    def test_equal_weights_have_equal_scores(self, finished):
        judge = Judge(finished.trainer, finished.model, Yardstick(SIGMA, 2))
        found = judge.scores({name: tensors_of(finished.model) for name in SETS})
        assert found["left"].value == found["mid"].value == found["right"].value
        assert_equal(found["left"].statistics, found["right"].statistics)

    def test_metrics_and_modes(self, finished):
        assert score(finished, Yardstick(SIGMA, 2)).metric == "val/acc"
        assert score(finished, Yardstick(SIGMA, 2, monitor="val/loss")).lower_is_better
        assert score(finished, Yardstick(SIGMA, 2, mode="min", monitor="val/acc")).lower_is_better
        assert not score(finished, Yardstick(SIGMA, 2, mode="max", monitor="val/loss")).lower_is_better
        with pytest.raises(MisconfigurationException, match=r"no metric 'nothing'.*val/acc"):
            score(finished, Yardstick(SIGMA, 1, monitor="nothing"))


def test_mean_shift_is_the_expected_deviation():
    model = nn.Linear(3, 2)
    noise = cim.RightCensoredGaussian(sigma=0.3, cutoff=0.5)
    before = {key: tensor.clone() for key, tensor in tensors_of(model).items()}
    found = with_mean_shift(model, cim.Mapping(), tensors_of(model), noise)
    shift = -0.1978 * 0.3 * before["weight"].abs().max()
    torch.testing.assert_close(found["weight"], before["weight"] + shift, atol=1e-4, rtol=0)
    assert_equal(found["bias"], before["bias"])
    assert_equal(tensors_of(model), before)
