"""A frozen network, one trained block, and everything given back."""

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
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.shared_block import NAME, WEIGHT, call_sites, insert_shared_block, shared_block_of
from lightning_cim.chip.stages import Block
from tests.helpers.boring import (
    BATCHES,
    FLAVOURS,
    STEPS,
    Boring,
    Resumable,
    assert_equal,
    checkpoint_of,
    data,
    fit,
    make,
    make_trainer,
)
from tests.helpers.digits import accuracy, digits, full_scale, trained_digits

FLAVOUR = FLAVOURS[0]
SIGMA = cim.Gaussian(sigma=0.3)
KEYS = [WEIGHT, f"{NAME}.bias"]


class Watched(Boring):
    """Also records the block's weight, and what validation computes with."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks, self.validated = [], []

    def training_step(self, batch, batch_idx):
        if hasattr(self, NAME):
            self.blocks.append(self.tiny_shared_block.weight.detach().clone())
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.validated.append(self.weights())
        super().validation_step(batch, batch_idx)


def fitted(callback, flavour=FLAVOUR, model=None, **kwargs):
    model = make(flavour, Watched) if model is None else model
    return fit(flavour, lambda _: {"callbacks": [callback]}, model=model, **kwargs)


def backbone(model):
    return {name: value.clone() for name, value in model.state_dict().items() if not name.startswith(NAME)}


def assert_given_back(model, modes, callback):
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert modes is None or modes_of(model) == modes
    left = [name for name in (*STEPS, "configure_optimizers", "setup") if name in model.__dict__]
    assert not left
    assert scope_of(model).chain == ()
    assert callback._undo is None


def modes_of(model):
    return {name: module.training for name, module in model.named_modules() if not name.startswith(NAME)}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("chip", {}),
        ("generic", {}),
        ("chip", {"accumulate_grad_batches": 2, "gradient_clip_val": 0.1}),
        ("chip", {"precision": "bf16-mixed"}),
        ("chip", {"val_check_interval": 2}),
    ],
)
def test_only_the_block_is_trained(mode, settings, flavour):  # E17
    model = make(flavour, Watched)
    before, modes = backbone(model), modes_of(model)
    callback = TinySharedBlock(SIGMA, mode=mode)
    run = fitted(callback, flavour, model, **settings)
    assert_equal(backbone(model), before)
    assert list(model.state_dict()) == [*before, *KEYS]
    assert all(model.state_dict()[key].abs().max() > 0 for key in KEYS)
    (optimizer,) = run.trainer.optimizers
    assert isinstance(optimizer, torch.optim.Adam)
    assert [id(p) for group in optimizer.param_groups for p in group["params"]] == [
        id(p) for p in model.tiny_shared_block.parameters()
    ]
    assert len(model.losses) == 2 * BATCHES
    assert_given_back(model, modes, callback)


class NormAct(nn.BatchNorm2d):
    """Batch norm with an activation inside, as in timm."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


def test_statistics_of_every_kind_stay():
    model = make(FLAVOUR)
    model.register_buffer("class_weights", torch.ones(3))
    model.norm, model.conv = NormAct(4), nn.utils.parametrizations.spectral_norm(model.conv)
    in_training = []
    model.register_forward_pre_hook(lambda module, _: in_training.append((module.training, module.dropout.training)))
    before, modes = backbone(model), modes_of(model)
    callback = TinySharedBlock(
        SIGMA, mapping=cim.Mapping(include=["conv.parametrizations.weight.original"]), at=["norm"]
    )
    with pytest.warns(UserWarning, match="is computed"):
        fitted(callback, model=model, limit_val_batches=0)
    assert_equal(backbone(model), before)
    assert_given_back(model, modes, callback)
    assert in_training[1:] == [(True, True)] * 2 * BATCHES  # after the dry run


def test_the_network_lies_on_the_chip_that_evaluation_calls_so():
    model = make(FLAVOUR, Watched)
    expected = cim.chip_weights(model, cim.ChipPopulation(model, SIGMA, seed=4)[7])
    clean = model.weights()
    fitted(TinySharedBlock(SIGMA, chip=7, seed=4), model=model)
    assert_equal(model.seen[0], clean)  # the dry run
    assert len(model.seen) == 1 + 2 * BATCHES
    for seen in [*model.seen[1:], *model.validated]:
        assert_equal(seen, expected)


def test_generic_mode_draws_a_chip_a_batch_and_validates_on_held_ones():
    model = make(FLAVOUR, Watched)
    fitted(TinySharedBlock(SIGMA, mode="generic", validation_chips=2), model=model, num_sanity_val_steps=0)
    chips = {seen["conv.weight"].sum().item() for seen in model.seen[1:]}
    assert len(chips) == 2 * BATCHES
    held = [seen["conv.weight"].sum().item() for seen in model.validated]
    assert len(held) == 2 * 2 * 2  # epochs, batches, chips
    assert len(set(held)) == 2
    assert not set(held) & chips


def test_the_block_is_verified_afresh_for_each_batch():
    model = make(FLAVOUR, Watched, lr=0.0)
    run = fitted(TinySharedBlock(SIGMA, residual=cim.Gaussian(sigma=0.5), lr=1e-9), model=model)
    assert torch.equal(model.blocks[0], torch.zeros(4, 4))  # nothing to deviate from
    trained = [block.abs().max() for block in model.blocks[1:]]
    assert len({value.item() for value in trained}) == 2 * BATCHES - 1
    assert run.model.tiny_shared_block.weight.abs().max() < 1e-7


def test_found_and_named_stages():
    model = make(FLAVOUR)
    fitted(TinySharedBlock(SIGMA), model=model)
    assert [path for path, _ in call_sites(model)] == ["dropout"]  # the last of conv, norm and dropout
    model = make(FLAVOUR)
    fitted(TinySharedBlock(SIGMA, at=["conv", "norm"], width=3), model=model)
    assert [path for path, _ in call_sites(model)] == ["conv", "norm"]
    assert shared_block_of(model).width == 3


def test_layers_made_in_configure_model_are_there():
    class Late(Boring):
        def configure_model(self):
            if not hasattr(self, "head"):
                self.head = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))

        def forward(self, x):
            return self.head(super().forward(x))

    model = make(FLAVOUR, Late)
    fitted(TinySharedBlock(SIGMA, at=["dropout", "head.1"], width=4), model=model)
    assert [path for path, _ in call_sites(model)] == ["dropout", "head.1"]


def test_the_example_input_spares_the_loader():
    class Loader:
        started = 0

        def __init__(self):
            self.loader = data()

        def __len__(self):
            return len(self.loader)

        def __iter__(self):
            Loader.started += 1
            return iter(self.loader)

    model = make(FLAVOUR)
    fitted(TinySharedBlock(SIGMA), model=model, train=Loader())
    assert len(call_sites(model)) == 1
    with_loader, Loader.started = Loader.started, 0
    model = make(FLAVOUR)
    model.example_input_array = torch.zeros(1, 1, 4, 4)
    fitted(TinySharedBlock(SIGMA), model=model, train=Loader())
    assert Loader.started == with_loader - 1
    assert len(call_sites(model)) == 1


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_data_of_the_module_and_of_a_datamodule(flavour):
    pl = importlib.import_module(flavour)

    class Source(pl.LightningDataModule):
        def setup(self, stage):
            self.batches = data()

        def train_dataloader(self):
            return self.batches

    class Own(Boring):
        def train_dataloader(self):
            return {"first": data(), "second": data()}

        def training_step(self, batch, batch_idx):
            return super().training_step(batch["first"], batch_idx)

    for model, source in ((make(flavour), Source()), (make(flavour, Own), None)):
        trainer = make_trainer(flavour, callbacks=[TinySharedBlock(SIGMA)], limit_val_batches=0)
        trainer.fit(model, datamodule=source)
        assert len(call_sites(model)) == 1


def test_a_loss_that_the_spy_does_not_know():
    class Own(Boring):
        def loss(self, batch):
            x, y = batch
            return nn.functional.binary_cross_entropy(self(x).softmax(1), nn.functional.one_hot(y, 3).float())

    model = make(FLAVOUR, Own)
    fitted(TinySharedBlock(SIGMA), model=model)
    assert len(call_sites(model)) == 1


@pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["training_step", "validation_step", "backward"])
def test_everything_is_given_back_after_an_error(place, error):
    model = make(FLAVOUR)
    before, modes = backbone(model), modes_of(model)
    model.raise_in, model.error = place, error
    callback = TinySharedBlock(SIGMA)
    with pytest.raises((type(error), SystemExit)):
        fitted(callback, model=model)
    assert_equal(backbone(model), before)
    # An error in validation leaves any module in eval mode: Lightning's own doing.
    assert_given_back(model, None if place == "validation_step" else modes, callback)
    fitted(TinySharedBlock(SIGMA), model=model)  # goes on with the block that is there
    assert len(call_sites(model)) == 1


def test_the_module_s_own_modes_are_given_back():
    model = make(FLAVOUR)
    model.norm.eval()
    modes = modes_of(model)
    callback = TinySharedBlock(SIGMA)
    fitted(callback, model=model)
    assert_given_back(model, modes, callback)


def test_a_frozen_parameter_stays_frozen_afterwards():
    model = make(FLAVOUR)
    model.conv.weight.requires_grad_(False)
    fitted(TinySharedBlock(SIGMA), model=model)
    assert [name for name, parameter in model.named_parameters() if not parameter.requires_grad] == ["conv.weight"]


def test_ordinary_training_goes_on_afterwards():
    model = make(FLAVOUR)
    fitted(TinySharedBlock(SIGMA), model=model)
    before = model.weights()
    run = fit(FLAVOUR, model=model)
    assert isinstance(run.trainer.optimizers[0], torch.optim.SGD)
    assert not torch.equal(model.weights()["conv.weight"], before["conv.weight"])


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("mode", ["chip", "generic"])
def test_a_resumed_fit_equals_an_uninterrupted_one(mode, flavour, tmp_path):
    checkpoint = importlib.import_module(f"{flavour}.callbacks").ModelCheckpoint
    saver = checkpoint(tmp_path, "step-{step}", every_n_train_steps=6, save_top_k=-1)
    settings = {"max_epochs": 3, "enable_checkpointing": True, "extra": [saver]}
    callback = TinySharedBlock(SIGMA, mode=mode, chip=1)
    model = make(flavour, Watched, reseed=True)
    full = fitted(callback, flavour, model, train=Resumable(data()), **settings)
    again = TinySharedBlock(SIGMA, mode=mode, chip=1)
    fresh = make(flavour, Watched, seed=5, reseed=True)
    settings["extra"] = [copy.deepcopy(saver)]
    path = tmp_path / "step-step=6.ckpt"
    resumed = fitted(again, flavour, fresh, train=Resumable(data()), ckpt_path=path, seed=9, **settings)
    assert fresh.losses == model.losses[6:]
    found, expected = checkpoint_of(resumed.trainer), checkpoint_of(full.trainer)
    assert_equal(found["state_dict"], expected["state_dict"])
    assert_equal(found["optimizer_states"], expected["optimizer_states"])
    assert (again._batches, again.report.epochs) == (callback._batches, callback.report.epochs) == (12, 3)
    assert (again.report.clean, again.report.before) == (callback.report.clean, callback.report.before)
    assert [row[0] for row in again.report.history] == [0, 1, 2]


def test_the_random_state_of_the_run_is_its_own():
    class Recorder(Boring):
        def on_train_start(self):
            self.state_at_start = torch.get_rng_state()

    plain, repaired = make(FLAVOUR, Recorder), make(FLAVOUR, Recorder)
    fit(FLAVOUR, model=plain, train=data(shuffle=True))
    fitted(TinySharedBlock(SIGMA), model=repaired, train=data(shuffle=True))
    assert torch.equal(plain.state_at_start, repaired.state_at_start)


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "both"}, "mode must be 'chip' or 'generic', got 'both'"),
        ({"variation": None}, "variation must be a Variation such as Gaussian.sigma=0.1., got None"),
        ({"variation": 0.1}, "variation must be a Variation"),
        ({"variation": None, "mode": "generic"}, "variation must be a Variation"),
        ({"residual": 0.03}, "residual must be a Variation, got 0.03"),
        ({"chip": -1}, "numbered from 0, got -1"),
        ({"chip": "missing.pt"}, "there is no file missing.pt of read-back values"),
        ({"chip": 0.5}, "chip must be a number, a Chip, or read-back values by parameter name, got float"),
        ({"width": 0}, "width must be positive, got 0"),
        ({"lr": -1e-3}, "lr must be positive, got -0.001"),
        ({"at": "conv"}, "at must be a list of submodules' paths, got 'conv'"),
        ({"at": []}, "at must be a list of submodules' paths"),
        ({"mapping": ["conv"]}, "mapping must be a Mapping"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(MisconfigurationException, match=f"TinySharedBlock: .*{message}"):
        TinySharedBlock(**{"variation": SIGMA, **arguments})


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (lambda: TinySharedBlock(SIGMA, at=["convv"]), "no submodule 'convv' to use as a stage .nearest: 'conv'"),
        (lambda: TinySharedBlock(chip={"conv.weight": torch.zeros(4, 1, 3, 3)}), "no values of 'linear.weight'"),
        (lambda: TinySharedBlock(SIGMA, mapping=cim.Mapping(exclude=["con"])), "exclude names 'con'"),
        (lambda: TinySharedBlock(SIGMA, mapping=cim.Mapping(targets=["linear"])), "found no stage"),
    ],
)
def test_a_network_that_does_not_fit(callback, message):
    model = make(FLAVOUR)
    before, modes = backbone(model), modes_of(model)
    found = callback()
    with pytest.raises(MisconfigurationException, match=f"TinySharedBlock: .*{message}"):
        fitted(found, model=model)
    assert_equal(dict(model.state_dict()), before)
    assert_given_back(model, modes, found)


def test_another_programmer_is_refused():
    with pytest.raises(MisconfigurationException, match="for the stage 'program' already"):
        fit(FLAVOUR, lambda _: {"callbacks": [cim.VariationInjection(SIGMA), TinySharedBlock(SIGMA)]})


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
