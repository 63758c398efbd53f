"""A frozen network, one trained block, and everything given back."""

import copy
import importlib

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import lightning_cim as cim
from lightning_cim.callbacks.tiny_shared_block import TinySharedBlock
from lightning_cim.chip.shared_block import NAME, WEIGHT, call_sites, shared_block_of
from tests.callbacks.tiny_shared_block_toys import (
    FLAVOUR,
    SIGMA,
    Watched,
    assert_given_back,
    backbone,
    fitted,
    modes_of,
)
from tests.helpers.boring import (
    BATCHES,
    FLAVOURS,
    Boring,
    Resumable,
    assert_equal,
    checkpoint_of,
    data,
    fit,
    make,
    make_trainer,
)

KEYS = [WEIGHT, f"{NAME}.bias"]


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
