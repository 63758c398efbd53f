"""CorrectNet's regulariser against loops over kernels, and its manners in a fit."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import lightning_cim as cim
from lightning_cim.callbacks.correctnet import CorrectNetReg, kernel_orthogonality
from lightning_cim.chip.steps import steps_of
from tests.helpers.boring import BATCHES, FLAVOURS, MAPPED, Boring, assert_equal, fit, make
from tests.helpers.checks import (
    PLACES,
    check_clean_after_error,
    check_clean_after_fit,
    check_clean_for_others,
    check_invisible,
    check_resume,
)

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)


def slow_penalty(weight):
    """Element by element in Python's floats, as the formula is written."""
    rows, columns = weight.shape[-2:]
    total = 0.0
    for kernel in weight.detach().double().reshape(-1, rows, columns).tolist():
        for i in range(columns):
            for j in range(columns):
                entry = sum(kernel[row][i] * kernel[row][j] for row in range(rows))
                total += (entry - (i == j)) ** 2
    return total


def slow_gradient(weight):
    """4 W (W^T W - I), matrix by matrix."""
    matrices = weight.detach().double().reshape(-1, *weight.shape[-2:])
    rows = [4 * w @ (w.T @ w - torch.eye(w.shape[1], dtype=torch.float64)) for w in matrices]
    return torch.stack(rows).reshape(weight.shape)


@pytest.mark.parametrize(
    "shape",
    [(5, 3), (3, 5), (4, 4), (1, 1), (6, 2, 3, 3), (4, 3, 1, 1), (4, 3, 5), (2, 3, 2, 3, 2), (3, 2, 1, 4)],
)
def test_value_and_gradient_equal_the_slow_formula(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    penalty = kernel_orthogonality(weight)
    assert penalty.item() == pytest.approx(slow_penalty(weight), rel=1e-12)
    penalty.backward()
    torch.testing.assert_close(weight.grad, slow_gradient(weight), rtol=1e-10, atol=1e-10)


def test_hand_made_values():
    assert kernel_orthogonality(torch.eye(3).repeat(4, 2, 1, 1)).item() == 0.0
    assert kernel_orthogonality(torch.zeros(4, 2, 3, 3)).item() == 4 * 2 * 3
    assert kernel_orthogonality(torch.full((2, 1, 1, 1), 2.0)).item() == 2 * (4 - 1) ** 2
    assert kernel_orthogonality(torch.eye(2, 5)).item() == 3.0  # two outputs cannot span five inputs
    assert kernel_orthogonality(torch.eye(5, 2)).item() == 0.0


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 6), columns=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_rotations_change_nothing(seed, rows, columns):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(2, rows, columns, generator=generator, dtype=torch.float64)
    left = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))[0]
    penalty = kernel_orthogonality(weight)
    torch.testing.assert_close(kernel_orthogonality(left @ weight @ right), penalty)
    assert penalty >= 2 * max(0, columns - rows)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_penalised_in_float32(dtype):
    weight = (torch.eye(3) * (1 + 2**-5)).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = kernel_orthogonality(weight)
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(slow_penalty(weight), rel=1e-5)


class Observed(Boring):
    """Keeps the loss that went backward and the gradients that the optimizer got; lr 0."""

    def __init__(self):
        super().__init__(lr=0.0)
        self.total, self.gradients = [], []

    def backward(self, loss, *args, **kwargs):
        self.total.append(loss.item())
        super().backward(loss, *args, **kwargs)

    def on_before_optimizer_step(self, optimizer):
        held = {name: parameter.grad for name, parameter in self.named_parameters()}
        self.gradients.append({name: gradient.clone() for name, gradient in held.items() if gradient is not None})


class Offering(Observed):
    """Gives logits and target to whoever asks."""

    def cim_logits_and_target(self, batch):
        return self(batch[0]), batch[1]


def observed(flavour, callbacks, **kwargs):
    base = kwargs.pop("base", Observed)
    return fit(flavour, lambda _: {"callbacks": callbacks, **kwargs}, model=make(flavour, base), max_epochs=1).model


@BOTH
@pytest.mark.parametrize("strength", [5e-4, 0.1])
def test_loss_and_gradient_are_the_modules_plus_the_penalty(flavour, strength):
    plain, found = observed(flavour, []), observed(flavour, [CorrectNetReg(strength)])
    weights = {name: plain.get_parameter(name) for name in MAPPED}
    penalty = strength * sum(map(slow_penalty, weights.values()))
    assert found.losses == plain.losses
    assert found.total == pytest.approx([loss + penalty for loss in plain.losses], rel=1e-5)
    for with_penalty, without in zip(found.gradients, plain.gradients, strict=True):
        for name, gradient in without.items():
            extra = strength * slow_gradient(weights[name]).float() if name in weights else 0.0
            torch.testing.assert_close(with_penalty[name], gradient + extra, rtol=1e-5, atol=1e-6)


def test_default_strength_is_the_authors():
    assert CorrectNetReg().strength == 5e-4


def test_only_mapped_weights_are_regularised():
    mapping = cim.Mapping(exclude=["linear"])
    plain, found = observed(FLAVOURS[0], []), observed(FLAVOURS[0], [CorrectNetReg(0.1, mapping)])
    assert found.total[0] == pytest.approx(plain.total[0] + 0.1 * slow_penalty(plain.conv.weight), rel=1e-5)
    assert torch.equal(found.gradients[0]["linear.weight"], plain.gradients[0]["linear.weight"])


@BOTH
def test_accumulated_batches_count_the_penalty_once(flavour):
    options = {"accumulate_grad_batches": 2}
    plain, found = observed(flavour, [], **options), observed(flavour, [CorrectNetReg(0.1)], **options)
    assert len(found.gradients) == BATCHES // 2
    for with_penalty, without in zip(found.gradients, plain.gradients, strict=True):
        extra = 0.1 * slow_gradient(plain.conv.weight).float()
        torch.testing.assert_close(with_penalty["conv.weight"], without["conv.weight"] + extra, rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(flavour, precision):
    kwargs = {"precision": precision}
    plain, found = observed(flavour, [], **kwargs), observed(flavour, [CorrectNetReg(1.0)], **kwargs)
    penalty = sum(slow_penalty(plain.get_parameter(name)) for name in MAPPED)
    half = precision != "64-true"
    assert found.total[0] == pytest.approx(plain.total[0] + penalty, rel=1e-6 if half else 1e-12)
    extra = slow_gradient(plain.conv.weight).to(plain.conv.weight.dtype)
    loose = {"rtol": 2e-2, "atol": 2e-2} if precision == "bf16-true" else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.gradients[0]["conv.weight"], plain.gradients[0]["conv.weight"] + extra, **loose)


@pytest.mark.parametrize("place", ["before", "after"])
def test_beside_injection_the_penalty_is_of_the_clean_weights(place):
    """Its loss and gradient are those of injection alone plus the clean weights' penalty."""
    flavour = FLAVOURS[0]
    noisy = observed(flavour, [cim.VariationInjection(cim.Gaussian(0.1))])
    both = [CorrectNetReg(0.1), cim.VariationInjection(cim.Gaussian(0.1))]
    found = observed(flavour, both if place == "before" else both[::-1])
    assert_equal(found.seen, noisy.seen)
    assert not torch.equal(found.seen[0]["conv.weight"], found.conv.weight)
    penalty = 0.1 * sum(slow_penalty(found.get_parameter(name)) for name in MAPPED)
    assert found.total == pytest.approx([loss + penalty for loss in noisy.total], rel=1e-5)
    extra = 0.1 * slow_gradient(found.conv.weight).float()
    for with_penalty, without in zip(found.gradients, noisy.gradients, strict=True):
        torch.testing.assert_close(with_penalty["conv.weight"], without["conv.weight"] + extra, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("offered", [False, True])
def test_beside_negative_feedback_there_is_one_penalty(place, offered):
    """NeFT runs the step four times, or not at all where the module offers its logits."""
    base = Offering if offered else Observed
    neft = [cim.NegativeFeedback(cim.Gaussian(0.1), beta=0.1)]
    alone = observed(FLAVOURS[0], neft, base=base)
    both = [CorrectNetReg(0.1), cim.NegativeFeedback(cim.Gaussian(0.1), beta=0.1)]
    found = observed(FLAVOURS[0], both if place == "before" else both[::-1], base=base)
    penalty = 0.1 * sum(slow_penalty(found.get_parameter(name)) for name in MAPPED)
    assert found.total == pytest.approx([loss + penalty for loss in alone.total], rel=1e-5)


class ReturnsDict(Observed):
    """Returns a dict with an extra entry, and nothing for the second batch."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.returned = {"loss": loss, "batch": batch_idx}
        return None if batch_idx == 1 else self.returned

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.outputs.append(outputs)
        if outputs:
            assert self.returned["loss"].item() == self.losses[-1]  # the module's own dict is left alone


@BOTH
def test_dicts_and_skipped_batches(flavour):
    found = observed(flavour, [CorrectNetReg(0.1)], base=ReturnsDict)
    penalty = 0.1 * sum(slow_penalty(found.get_parameter(name)) for name in MAPPED)
    losses = [loss for index, loss in enumerate(found.losses) if index != 1]
    assert found.total == pytest.approx([loss + penalty for loss in losses], rel=1e-5)
    assert [output["batch"] for output in found.outputs if output] == [0, 2, 3]
    assert all(set(output) == {"loss", "batch"} for output in found.outputs if output)


def test_training_moves_kernels_towards_orthogonality():
    def trained(strength):
        model = make(FLAVOURS[0])
        fit(FLAVOURS[0], lambda _: {"callbacks": [CorrectNetReg(strength)]}, model=model, max_epochs=5)
        return slow_penalty(model.conv.weight)

    assert trained(0.1) < 0.5 * trained(0.0)


@BOTH
def test_strength_zero_is_invisible(flavour):
    check_invisible(lambda _: {"callbacks": [CorrectNetReg(0.0)]}, flavour)


class Growing(Observed):
    """Replaces a layer in the second epoch."""

    def on_train_epoch_start(self):
        if self.current_epoch == 1:
            self.linear = nn.Linear(16, 3)
            self.optimizers(use_pl_optimizer=False).param_groups[0]["params"] = list(self.parameters())


def test_a_replaced_layer_is_regularised():
    run = fit(FLAVOURS[0], lambda _: {"callbacks": [CorrectNetReg(0.1)]}, model=make(FLAVOURS[0], Growing))
    penalty = 0.1 * sum(slow_penalty(run.model.get_parameter(name)) for name in MAPPED)
    assert run.model.total[-1] == pytest.approx(run.model.losses[-1] + penalty, rel=1e-5)


class Tied(Observed):
    """One weight at two places."""

    def __init__(self):
        super().__init__()
        self.twin = nn.Linear(16, 3)
        self.twin.weight = self.linear.weight


def test_tied_weights_count_once():
    found = observed(FLAVOURS[0], [CorrectNetReg(0.1)], base=Tied)
    penalty = 0.1 * sum(slow_penalty(found.get_parameter(name)) for name in MAPPED)
    assert found.total[0] == pytest.approx(found.losses[0] + penalty, rel=1e-5)


def alone(flavour):
    return {"callbacks": [CorrectNetReg(0.01)]}


def beside_injection(flavour):
    return {"callbacks": [CorrectNetReg(0.01), cim.VariationInjection(cim.Gaussian(0.1))]}


@pytest.mark.parametrize("arrange", [alone, beside_injection])
@BOTH
class TestContract:
    def test_leaves_nothing_behind(self, arrange, flavour):
        check_clean_after_fit(arrange, flavour)

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("error", [RuntimeError("boom"), KeyboardInterrupt()])
    def test_leaves_nothing_behind_after_an_error(self, place, error, arrange, flavour):
        check_clean_after_error(arrange, flavour, place, error)

    def test_resumes(self, arrange, flavour, tmp_path):
        check_resume(arrange, flavour, tmp_path)

    def test_others_see_clean_weights(self, arrange, flavour):
        check_clean_for_others(arrange, flavour)


@BOTH
def test_the_callback_can_be_used_again(flavour):
    callback = CorrectNetReg(0.1)
    first, second = observed(flavour, [callback]), observed(flavour, [callback])
    assert first.total == second.total
    assert callback._attached is None
    copy.deepcopy(callback)


def test_steps_that_somebody_else_keeps_wrapped_lose_the_penalty():
    model = make(FLAVOURS[0])
    steps_of(model).attach(model, model)
    fit(FLAVOURS[0], alone, model=model, max_epochs=1)
    assert steps_of(model)["training_step"].around == []
    steps_of(model).detach(model)


class Manual(Boring):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


@BOTH
def test_manual_optimisation_is_refused(flavour):
    with pytest.raises(MisconfigurationException, match=r"CorrectNetReg adds to the loss that training_step returns"):
        fit(flavour, alone, model=make(flavour, Manual))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"strength": -1e-4}, r"strength must be a finite number >= 0, got -0.0001"),
        ({"strength": math.nan}, r"strength must be a finite number >= 0, got nan"),
        ({"mapping": ["conv"]}, r"mapping must be a Mapping, got \['conv'\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(MisconfigurationException, match=message):
        CorrectNetReg(**arguments)


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (cim.Mapping(exclude=["lineal"]), r"CorrectNetReg: Mapping: exclude names 'lineal'.*nearest: 'linear"),
        (cim.Mapping(include=["norm.weight"]), r"parameter 'norm.weight' has 1 dimension.*exclude it in mapping"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(mapping, message):
    with pytest.raises(MisconfigurationException, match=message):
        observed(FLAVOURS[0], [CorrectNetReg(mapping=mapping)])


def test_nan_weights_are_refused():
    model = make(FLAVOURS[0])
    nn.init.constant_(model.linear.weight, math.nan)
    with pytest.raises(MisconfigurationException, match=r"CorrectNetReg: .*'linear.weight' has 48 NaN"):
        fit(FLAVOURS[0], alone, model=model)
