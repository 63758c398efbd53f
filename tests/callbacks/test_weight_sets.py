"""A set of weights beside the user's module trains exactly as the module itself does; Lightning's loop is the judge."""

import gc
import importlib
import weakref

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset
from torchmetrics import MeanMetric

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.loop_batches import independent
from lightning_cim.callbacks.offstage import offstage, own_containers
from lightning_cim.callbacks.weight_sets import Twin, average_gradients, copy_into, step_arguments, tensors_of
from lightning_cim.chip.scope import scope_of
from tests.helpers.boring import FLAVOURS, Boring, assert_equal, data, make, make_trainer


class Calm(Boring):
    """No dropout, so that two sets on the same chips are equal; a configurable optimizer."""

    def __init__(self, optimizer="sgd", scheduler=None):
        super().__init__()
        self.dropout = nn.Identity()
        self.optimizer, self.scheduler = optimizer, scheduler
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.log("train/loss", loss)
        self.mean(loss.detach())
        return {"loss": loss, "size": len(batch[0])}

    def configure_optimizers(self):
        makers = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
            "adam": lambda p: torch.optim.AdamW(p, lr=0.01),
            "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=3),
        }
        optimizer = makers[self.optimizer](self.parameters())
        schedules = {
            "epoch": lambda: torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5),
            "step": lambda: {
                "scheduler": torch.optim.lr_scheduler.OneCycleLR(
                    optimizer, 0.2, total_steps=self.trainer.estimated_stepping_batches
                ),
                "interval": "step",
            },
            "every other": lambda: {
                "scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5),
                "interval": "step",
                "frequency": 2,
            },
            "plateau": lambda: {
                "scheduler": torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.1, patience=0),
                "monitor": "val/constant",
            },
        }
        return optimizer if self.scheduler is None else ([optimizer], [schedules[self.scheduler]()])

    def validation_step(self, batch, batch_idx):
        super().validation_step(batch, batch_idx)
        self.log("val/constant", 1.0, batch_size=1)


class OwnOptimisation(Calm):
    """Overrides what Lightning lets a module override."""

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure=None):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 + batch_idx + 10 * epoch)
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, gradient_clip_val=0.05, gradient_clip_algorithm="norm")

    def on_train_batch_start(self, batch, batch_idx):
        self.scale = 1.0 + batch_idx

    def on_before_optimizer_step(self, optimizer):
        for parameter in self.parameters():
            parameter.grad.mul_(self.scale)


class Labels(Calm):
    """Takes its batch apart, and takes no batch index."""

    def training_step(self, batch):
        y = batch.pop("y")
        return nn.functional.cross_entropy(self(batch.pop("x")), y)


class SameChips(cim.VariationInjection):
    """Trains a twin on the very chips of the user's module."""

    twin = None

    def on_train_start(self, trainer, pl_module):
        self.twin = Twin(trainer, pl_module, "left", seed=0, chip=self._program.chip)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.batch = own_containers(batch)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        super().on_train_batch_end(trainer, pl_module)
        self.twin.step(trainer, self.batch, batch_idx, self._program.chip)
        self.twin.step_on_plateau(trainer, "step", batch_idx)

    def on_train_epoch_end(self, trainer, pl_module):
        self.twin.step_on_plateau(trainer, "epoch", trainer.current_epoch)


def check_equal_to_the_module(base, flavour=FLAVOURS[0], train=None, trainer=None, **kwargs):
    callback = SameChips(cim.RightCensoredGaussian(sigma=0.1))
    model = make(flavour, base, **kwargs)
    before = tensors_of(model)["linear.weight"].clone()
    runner = make_trainer(flavour, callbacks=[callback], max_epochs=3, **(trainer or {}))
    runner.fit(model, data(batches=5) if train is None else train, data(2, seed=2))
    own, other = tensors_of(model), tensors_of(callback.twin.module)
    assert_equal(other, own)
    assert not torch.equal(own["linear.weight"], before)
    return callback.twin, runner


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_plain_steps(flavour):
    check_equal_to_the_module(Calm, flavour)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_optimizers(optimizer):
    check_equal_to_the_module(Calm, optimizer=optimizer)


@pytest.mark.parametrize("scheduler", ["epoch", "step", "every other", "plateau"])
def test_schedulers(scheduler):
    twin, runner = check_equal_to_the_module(Calm, scheduler=scheduler)
    rate = twin._optimizer.param_groups[0]["lr"]
    assert rate == runner.optimizers[0].param_groups[0]["lr"] != 0.1


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate_grad_batches": 2},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"limit_train_batches": 3, "accumulate_grad_batches": 2},
        {"val_check_interval": 2},
    ],
    ids=str,
)
def test_settings_of_the_trainer(settings):
    check_equal_to_the_module(Calm, scheduler="step", trainer=settings)


def test_hooks_that_the_module_overrides():
    check_equal_to_the_module(OwnOptimisation)


def test_batches_that_the_step_takes_apart():
    images = data(batches=3).dataset.tensors
    rows = [{"x": x, "y": y} for x, y in zip(*images, strict=True)]
    check_equal_to_the_module(Labels, train=DataLoader(rows, batch_size=4))


def test_nothing_of_a_twin_is_logged_or_kept():
    twin, runner = check_equal_to_the_module(Calm)
    assert twin.module._trainer is None
    assert not {"log", "log_dict", "print"} & set(twin.module.__dict__)
    assert twin.module.mean._update_count == 0
    assert runner.callback_metrics["train/loss"] == runner.lightning_module.losses[-1]
    assert not scope_of(twin.module).is_open
    reference = weakref.ref(twin.module)
    twin.leave()
    assert scope_of(twin.module).chain == ()
    runner.callbacks.clear()
    del twin
    gc.collect()
    assert reference() is None


def test_state_is_restored():
    flavour = FLAVOURS[0]
    twin, runner = check_equal_to_the_module(Calm, optimizer="adam", scheduler="epoch")
    other = Twin(
        runner, make(flavour, Calm, seed=7, optimizer="adam", scheduler="epoch"), "left", 0, twin._program.chip
    )
    other.load_state_dict(twin.state_dict())
    assert_equal(other.state_dict(), twin.state_dict())


class Closure(Calm):
    """Computes with what deepcopy does not copy."""

    def __init__(self):
        super().__init__()
        self.net = lambda x: self.linear(torch.relu(self.conv(x)).flatten(1))

    def forward(self, x):
        return self.net(x)


def test_a_copy_that_is_none_is_refused():
    with pytest.raises(MisconfigurationException, match="no gradient reached the weights of a copy"):
        check_equal_to_the_module(Closure)


def test_offstage_gives_loggers_that_write_nowhere():
    class Logger(importlib.import_module(f"{FLAVOURS[0]}.loggers.logger").DummyLogger):
        reached = 0

        @property
        def experiment(self):
            self.reached += 1
            return super().experiment

    model, logger = make(FLAVOURS[0]), Logger()
    trainer = make_trainer(FLAVOURS[0], logger=logger)
    with offstage(model, trainer):
        model.logger.experiment.add_scalar("x", 1)
        model.log("x", 1.0)
        model.print("x")
        model.trainer.should_stop = True
        assert model.trainer.max_epochs == 2
    assert logger.reached == 0
    assert not trainer.should_stop
    assert model._trainer is None


def test_copies_are_in_place_and_keep_ties():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[2].weight = model[0].weight
    weight = model[0].weight
    copy_into(model, {name: torch.full_like(tensor, 3) for name, tensor in tensors_of(model).items()})
    assert model[0].weight is weight is model[2].weight
    assert all((tensor == 3).all() for tensor in tensors_of(model).values())
    assert weight.requires_grad


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (lambda batch: None, ("b",)),
        (lambda batch, batch_idx: None, ("b", 4)),
        (lambda batch, index=0: None, ("b", 4)),
        (lambda *args: None, ("b", 4)),
    ],
)
def test_step_arguments(step, expected):
    module = nn.Module()
    module.training_step = step
    assert step_arguments(module, "b", 4) == expected


class TestIndependentLoaders:
    def dataset(self):
        return TensorDataset(torch.arange(12.0))

    def test_the_order_of_the_running_loader_is_not_advanced(self):
        generator = torch.Generator().manual_seed(3)
        loader = DataLoader(self.dataset(), batch_size=3, sampler=RandomSampler(self.dataset(), generator=generator))
        state = generator.get_state()
        first = [batch[0].tolist() for batch in independent(loader)]
        assert torch.equal(generator.get_state(), state)
        assert [batch[0].tolist() for batch in loader] == first != [batch[0].tolist() for batch in loader]

    def test_persistent_workers_are_not_restarted(self):
        loader = DataLoader(self.dataset(), batch_size=3, num_workers=1, persistent_workers=True)
        running = iter(loader)
        assert next(running)[0].tolist() == [0, 1, 2]
        assert len(list(independent(loader))) == 4
        assert [batch[0].tolist() for batch in running] == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]

    def test_collections_and_plain_iterables(self):
        loaders = {"a": DataLoader(self.dataset(), batch_size=6), "b": range(3)}
        found = independent(loaders)
        assert list(found["b"]) == [0, 1, 2]
        assert found["a"].dataset is loaders["a"].dataset
        assert len(list(found["a"])) == 2

    def test_what_can_be_read_only_once_is_refused(self):
        with pytest.raises(MisconfigurationException, match="read only once"):
            independent(iter(range(3)))


def test_gradients_are_averaged_over_ranks_that_have_them():
    class Ranks:
        """Two ranks, of which this is the first; the other's messages are scripted."""

        world_size = 2

        def __init__(self, others):
            self.strategy, self.root_device, self.others = self, torch.device("cpu"), iter(others)

        def reduce(self, tensor, reduce_op):
            total = tensor + next(self.others)
            return total / 2 if reduce_op == "mean" else total

    first, second, third = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    first.grad = torch.tensor([1.0, 2.0])
    others = [torch.tensor([1.0, 1.0, 0.0]), torch.tensor([3.0, 4.0, 5.0, 6.0])]
    average_gradients(Ranks(others), [first, second, third])
    assert first.grad.tolist() == [2.0, 3.0]
    assert second.grad.tolist() == [2.5, 3.0]
    assert third.grad is None
