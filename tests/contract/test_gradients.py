"""Forward and backward see one chip, everything after them the clean weights."""

import importlib

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import lightning_cim as cim
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import scope_of
from tests.helpers.boring import BATCHES, FLAVOURS, MAPPED, Boring, Resumable, assert_equal, data, fit, make
from tests.helpers.cases import INVISIBLE, SIGMA, injection, strategy
from tests.helpers.checks import check_clean_after_fit

NOISY = [injection, strategy]


def training_chip(number):
    return Chip(SIGMA, 0, number, stream="train/0", portable=False)


def distinct(tensors):
    return len({tuple(tensor.flatten().tolist()) for tensor in tensors})


def gradients_of(flavour, arrange, model, **kwargs):
    """Gradients as the optimizer gets them, by step."""
    found = []

    def look(trainer, pl_module, optimizer):
        gradients = {name: parameter.grad for name, parameter in pl_module.named_parameters()}
        found.append({name: gradient.clone() for name, gradient in gradients.items() if gradient is not None})

    base = importlib.import_module(flavour).Callback
    watcher = type("Watcher", (base,), {"on_before_optimizer_step": staticmethod(look)})()
    fit(flavour, arrange, model=model, extra=[watcher], max_epochs=1, **kwargs)
    return found


def gradient_at(flavour, chip, batch, seed, base=Boring):
    """The slow reference: a second module whose parameters *are* the chip's weights."""
    model = make(flavour, base)
    model.load_state_dict(cim.export_state_dict(model, chip=chip))
    torch.manual_seed(seed)
    model.loss(batch).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_gradient_is_that_of_the_noisy_point(arrange, flavour):
    found = gradients_of(flavour, arrange, make(flavour, lr=0.0, reseed=True))
    for step, batch in enumerate(data()):
        assert_equal(found[step], gradient_at(flavour, training_chip(step), batch, seed=step), f"step {step}")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_accumulation_draws_a_chip_for_each_micro_batch(arrange, flavour):
    model = make(flavour, lr=0.0, reseed=True)
    found = gradients_of(flavour, arrange, model, train=data(8), accumulate_grad_batches=4)
    assert distinct(seen["linear.weight"] for seen in model.seen) == 8
    assert len(found) == 2
    for step in range(2):
        parts = [
            gradient_at(flavour, training_chip(number), batch, seed=step)
            for number, batch in enumerate(data(8))
            if number // 4 == step
        ]
        for name, gradient in found[step].items():
            torch.testing.assert_close(gradient, sum(part[name] for part in parts) / 4, msg=name)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_clipping_sees_the_gradients_of_clean_weights(flavour, algorithm):
    model = make(flavour, lr=1.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    fit(flavour, injection, model=model, max_steps=1, gradient_clip_val=1e-3, gradient_clip_algorithm=algorithm)
    moved = torch.cat([(after - before[name]).flatten() for name, after in model.named_parameters()])
    decay = 0.01 * torch.cat([value.flatten() for value in before.values()])
    step = (moved + decay).detach()  # SGD with weight decay: the step is minus the clipped gradient minus the decay
    size = step.abs().max() if algorithm == "value" else step.norm()
    assert size.item() == pytest.approx(1e-3, rel=0.01)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("arrange", NOISY)
def test_half_precision(arrange, precision, flavour):
    def at_precision(flavour):
        return {**arrange(flavour), "precision": precision}

    if precision == "bf16-mixed":
        check_clean_after_fit(at_precision, flavour)
    model = make(flavour, lr=0.0)
    fit(flavour, at_precision, model=model)
    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    assert {seen["conv.weight"].dtype for seen in model.seen} == {dtype}
    assert distinct(seen["linear.weight"].float() for seen in model.seen) == 2 * BATCHES
    assert distinct([torch.tensor([loss]) for loss in model.losses]) > 1
    clean = make(flavour).to(dtype)
    for name in MAPPED:
        assert torch.equal(model.get_parameter(name), clean.get_parameter(name))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("arrange", INVISIBLE)
def test_half_precision_at_sigma_zero_is_bit_identical(arrange, precision):
    plain = fit(FLAVOURS[0], precision=precision)
    ours = fit(FLAVOURS[0], arrange, precision=precision)
    assert ours.model.losses == plain.model.losses
    assert_equal(dict(ours.model.state_dict()), dict(plain.model.state_dict()))


class Checkpointed(Boring):
    """Recomputes its features in backward; both kinds of activation checkpointing."""

    reentrant = False

    def forward(self, x):
        x = checkpoint(self._features, x.requires_grad_(), use_reentrant=self.reentrant)
        return self.linear(x.flatten(1))

    def _features(self, x):
        return self.dropout(torch.relu(self.conv(x)))


class CheckpointedReentrant(Checkpointed):
    reentrant = True


class Unchecked(Checkpointed):
    def forward(self, x):
        return self.linear(self._features(x).flatten(1))


@pytest.mark.parametrize("base", [Checkpointed, CheckpointedReentrant])
@pytest.mark.parametrize("arrange", NOISY)
def test_activation_checkpointing_recomputes_with_the_same_chip(arrange, base):
    flavour, found = FLAVOURS[0], {}
    for kind in (base, Unchecked):
        model = make(flavour, kind, lr=0.0, reseed=True)
        model.norm = nn.Identity()  # recomputation would update batch-norm statistics twice
        found[kind] = gradients_of(flavour, arrange, model)
    assert len(found[base]) == BATCHES
    assert_equal(found[base], found[Unchecked])


class ManyChips(Boring):
    """Several draws in one step, one backward over all of them."""

    def training_step(self, batch, batch_idx):
        population = cim.ChipPopulation(self, SIGMA, seed=batch_idx)
        losses = []
        for number in range(3):
            with cim.on_chip(self, population[number]):
                losses.append(self.loss(batch))
        return sum(losses)


def test_several_draws_in_one_step_are_exact():
    flavour = FLAVOURS[0]
    model = make(flavour, ManyChips, lr=0.0)
    model.dropout = nn.Identity()
    for index, found in enumerate(gradients_of(flavour, lambda _: {}, model)):
        parts = []
        for number in range(3):
            reference = make(flavour, ManyChips)
            reference.dropout = nn.Identity()
            chip = cim.ChipPopulation(reference, SIGMA, seed=index)[number]
            reference.load_state_dict(cim.export_state_dict(reference, chip=chip))
            reference.loss(list(data())[index]).backward()
            parts.append({name: parameter.grad for name, parameter in reference.named_parameters()})
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, sum(part[name] for part in parts), msg=name)


class Manual(Boring):
    """Two backward passes and a step of the optimizer inside the training step, as a GAN has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.automatic_optimization = False
        self.dropout, self.norm = nn.Identity(), nn.Identity()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        for _ in range(2):
            self.seen.append(self.weights())
            self.manual_backward(self.loss(batch))
        optimizer.step()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_manual_optimisation(arrange, flavour):
    model, reference = make(flavour, Manual), make(flavour, Manual)
    (batch,) = data(1)
    fit(flavour, arrange, model=model, train=Resumable([batch]), max_epochs=1, num_sanity_val_steps=0)
    assert_equal(model.seen[0], model.seen[1])  # the second loss has its noise too
    gradient = gradient_at(flavour, training_chip(0), batch, seed=0, base=Manual)
    for name, parameter in reference.named_parameters():
        expected = parameter - 0.5 * 2 * gradient[name]
        torch.testing.assert_close(model.get_parameter(name), expected.detach(), msg=name)
    assert not scope_of(model).is_open


class ManyClosures(Boring):
    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.0, max_iter=3)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_closures_of_one_step_see_one_chip(arrange, flavour):
    model = make(flavour, ManyClosures)
    fit(flavour, arrange, model=model, max_epochs=1)
    assert len(model.seen) >= 2 * BATCHES
    assert distinct(seen["linear.weight"] for seen in model.seen) == BATCHES
    for name in MAPPED:
        assert torch.equal(model.get_parameter(name), make(flavour).get_parameter(name))


class Skipping(Boring):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss if batch_idx % 2 else None


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", NOISY)
def test_steps_that_return_nothing_leave_clean_weights(arrange, flavour):
    model = make(flavour, Skipping, lr=0.0, reseed=True)
    found = gradients_of(flavour, arrange, model, val_check_interval=1)
    assert distinct(seen["linear.weight"] for seen in model.seen) == BATCHES
    assert all(torch.equal(model.get_parameter(name), make(flavour).get_parameter(name)) for name in MAPPED)
    assert not scope_of(model).is_open
    for step, batch in enumerate(data()):  # Lightning runs the optimizer for skipped batches too, without gradients
        expected = gradient_at(flavour, training_chip(step), batch, seed=step) if step % 2 else {}
        assert_equal(found[step], expected, f"step {step}")
