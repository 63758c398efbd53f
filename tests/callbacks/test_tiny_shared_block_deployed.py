"""The repaired network: its chip, its report, its checkpoint, and what it recovers on digits."""

import copy
import importlib
import math

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.callbacks.shared_block_report import SharedBlockReport
from lightning_cim.callbacks.tiny_shared_block import TinySharedBlock
from lightning_cim.chip.shared_block import WEIGHT, insert_shared_block
from lightning_cim.chip.stages import Block
from tests.callbacks.tiny_shared_block_toys import FLAVOUR, SIGMA, fitted
from tests.helpers.boring import assert_equal, data, make, make_trainer
from tests.helpers.digits import accuracy, digits, full_scale, trained_digits


@pytest.mark.parametrize("form", ["values", "file", "checkpoint", "chip"])
def test_a_chip_that_was_read_back_is_the_chip(form, tmp_path):
    model = make(FLAVOUR)
    chip = cim.ChipPopulation(model, SIGMA, seed=2)[3]
    values = cim.export_state_dict(model, chip=chip)
    if form == "values":
        given = cim.chip_weights(model, chip)
    elif form == "chip":
        given = chip
    else:
        given = tmp_path / "chip.pt"
        torch.save(values if form == "file" else {"state_dict": values}, given)
    callback = TinySharedBlock(chip=given, seed=2)
    fitted(callback, model=model)
    twin = make(FLAVOUR)
    expected = TinySharedBlock(SIGMA, chip=3, seed=2)
    fitted(expected, model=twin)
    assert_equal(model.state_dict(), twin.state_dict())
    assert (callback.report.before, callback.report.after) == (expected.report.before, expected.report.after)
    assert_equal(cim.chip_weights(model, callback.deployed_chip()), cim.chip_weights(twin, expected.deployed_chip()))


def test_the_report_against_evaluation_by_hand():
    model, callback = make(FLAVOUR), TinySharedBlock(SIGMA, chip=2)
    plain = copy.deepcopy(model)
    fitted(callback, model=model, max_epochs=3)
    report = callback.report

    def measured(net, chip=None):
        trainer = make_trainer(FLAVOUR)
        net = copy.deepcopy(net)
        if chip is not None:
            net.load_state_dict(cim.export_state_dict(net, chip=chip))
        return trainer.validate(net, data(2, seed=2), verbose=False)[0]["val/acc"]

    held = callback._held()[0]
    assert report.metric == "val/acc"
    assert report.clean == measured(plain)
    assert report.before == measured(plain, cim.ChipPopulation(plain, SIGMA)[2])
    assert report.after == measured(model, held)
    assert (report.block_weights, report.backbone_weights) == (20, 36 + 48)
    assert (report.width, report.sites, report.epochs) == (4, ("dropout",), 3)
    assert len(report.history) == 3
    assert report.history[-1][2] == report.after
    assert 0 < report.history[0][1] < report.history[2][1] <= report.seconds
    assert "validation" in str(report)


def test_the_report_of_a_chosen_metric():
    callback = TinySharedBlock(SIGMA, monitor="val/loss")
    fitted(callback)
    assert callback.report.metric == "val/loss"
    with pytest.raises(MisconfigurationException, match="validation logs no 'acc'; it logs 'val/acc', 'val/loss'"):
        fitted(TinySharedBlock(SIGMA, monitor="acc"))


def test_without_validation_there_are_no_figures():
    callback = TinySharedBlock(SIGMA)
    fitted(callback, limit_val_batches=0)
    assert callback.report.metric is None
    assert math.isnan(callback.report.after)
    assert callback.report.block_weights == 20


def test_report_arithmetic():
    rows = ((0, 1.0, 0.6), (1, 2.0, 0.9))
    report = SharedBlockReport("acc", 0.95, 0.45, 0.90, 4160, 11_164_352, 64, ("a", "b"), 2, 2.5, rows)
    assert report.gap_before == pytest.approx(0.5)
    assert report.gap_after == pytest.approx(0.05)
    assert report.recovered == pytest.approx(0.9)
    assert report.share == pytest.approx(0.000373, abs=1e-6)
    assert (report.seconds_to(0.5), report.seconds_to(0.8), report.seconds_to(0.95)) == (1.0, 2.0, None)
    loss = SharedBlockReport("loss", 0.1, 1.1, 0.2, 1, 10, 1, (), 1, 1.0, ((0, 1.0, 0.2),))
    assert loss.recovered == pytest.approx(0.9)
    assert loss.seconds_to(0.3) == 1.0
    assert math.isnan(SharedBlockReport("acc", 0.5, 0.5, 0.5, 1, 10, 1, (), 1, 1.0).recovered)
    assert "4160 of 11164352 weights (0.037%)" in report.table()


def test_the_plot():
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    report = SharedBlockReport("acc", 0.9, 0.4, 0.8, 1, 10, 1, (), 2, 2.5, ((0, 1.0, 0.6), (1, 2.0, 0.8)))
    _, ax = report.plot()
    assert list(ax.lines[0].get_ydata()) == [0.4, 0.6, 0.8]
    plt.close("all")


def test_a_checkpoint_loads_into_a_fresh_module_with_a_block(tmp_path):
    model = make(FLAVOUR)
    run = fitted(TinySharedBlock(SIGMA), model=model)
    run.trainer.save_checkpoint(tmp_path / "net.ckpt", weights_only=True)
    fresh = make(FLAVOUR, seed=3)
    insert_shared_block(fresh, [Block("dropout", "dropout", 4, 1, (1, 4, 4, 4), (1, 4, 4, 4))])
    fresh.load_state_dict(torch.load(tmp_path / "net.ckpt", weights_only=False)["state_dict"])
    x = torch.randn(2, 1, 4, 4)
    assert torch.equal(fresh.eval()(x), model.eval()(x))


def test_evaluation_of_the_repaired_network_on_its_chip():
    model, callback = make(FLAVOUR), TinySharedBlock(SIGMA, chip=2)
    fitted(callback, model=model)
    found = cim.chip_weights(model, callback.deployed_chip())
    population = cim.ChipPopulation(model, SIGMA)
    assert torch.equal(found["conv.weight"], cim.chip_weights(model, population[2])["conv.weight"])
    again = cim.chip_weights(model, callback.deployed_chip(1))
    assert torch.equal(again["conv.weight"], found["conv.weight"])
    assert not torch.equal(again[WEIGHT], found[WEIGHT])
    result = callback.evaluate(make_trainer(FLAVOUR), model, data(2, seed=2), chips=2, stage="validate")
    with_chip = copy.deepcopy(model)
    with_chip.load_state_dict(cim.export_state_dict(model, chip=callback.deployed_chip(1)))
    by_hand = make_trainer(FLAVOUR).validate(with_chip, data(2, seed=2), verbose=False)[0]["val/acc"]
    assert result.of("val/acc")[1] == by_hand
    with pytest.raises(ValueError, match="has no shared block; fit it"):
        callback.evaluate(make_trainer(FLAVOUR), make(FLAVOUR), data(2))
    generic = TinySharedBlock(SIGMA, mode="generic")
    for index in (0, 5):
        found = cim.chip_weights(model, generic.deployed_chip(index))
        assert torch.equal(found["conv.weight"], cim.chip_weights(model, population[index])["conv.weight"])


def digits_module():
    pl = importlib.import_module(FLAVOUR)

    class Digits(pl.LightningModule):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return self.net(x)

        def training_step(self, batch, batch_idx):
            return nn.functional.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch, batch_idx):
            self.log("val/acc", (self(batch[0]).argmax(1) == batch[1]).float().mean(), batch_size=len(batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Digits


@pytest.mark.slow
def test_a_shared_block_recovers_most_of_the_gap():  # S7
    """digits_cnn, sigma 0.3 full-scale, 8-bit weights on 2-bit devices; a fresh network and chip each time."""
    train, val, test = digits()
    recovered = []
    for index in range(3):
        model = digits_module()(trained_digits(seed=index)).eval()
        callback = TinySharedBlock(full_scale(0.3), chip=index, seed=index)
        clean = accuracy(model, test)
        with cim.on_chip(model, callback.chip):
            before = accuracy(model, test)
        torch.manual_seed(index)
        trainer = make_trainer(FLAVOUR, callbacks=[callback], max_epochs=10)
        trainer.fit(model, DataLoader(train, 64, shuffle=True), DataLoader(val, 297))
        with cim.on_chip(model.eval(), callback.deployed_chip()):
            after = accuracy(model, test)
        assert clean - before > 0.1
        assert callback.report.share == 272 / 22_800
        recovered.append(1 - (clean - after) / (clean - before))
    assert sorted(recovered)[1] >= 0.6, recovered
