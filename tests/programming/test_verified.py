"""A chip with verified devices is a chip: same draws for the rest, usable wherever a chip is."""

import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify
from tests.evaluation.toys import Classifier, by_hand, dataset

VARIATION = cim.Gaussian(0.3)
SHAPES = {"0.weight": (40, 50), "2.weight": (3, 40)}
RESIDUALS = [None, cim.Gaussian(0.05), cim.RightCensoredGaussian(0.05), WriteVerify(), WriteVerify(form="redraw")]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 3))


def some(share, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(shape, generator=generator) < share for name, shape in SHAPES.items()}


def plain(index=0):
    return cim.Chip(VARIATION, 3, index)


def chip(verified, residual=None, index=0, **options):
    return VerifiedChip(VARIATION, 3, index, verified=verified, residual=residual, **options)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_others_are_as_on_the_plain_chip(residual):
    model, masks = net(), some(0.5)
    raw, found = (cim.chip_weights(model, c) for c in (plain(), chip(masks, residual)))
    for name, mask in masks.items():
        weight = model.state_dict()[name]
        moved = (found[name] - raw[name]).abs() > 1e-6
        assert torch.equal(found[name][~mask], raw[name][~mask])
        if isinstance(residual, WriteVerify):  # the loop leaves alone what is within its tolerance already
            assert torch.equal(moved, mask & ((raw[name] - weight).abs() > residual.tolerance * weight.abs().max()))
        else:
            assert moved[mask].double().mean() > 0.99


@pytest.mark.parametrize("residual", RESIDUALS)
def test_a_verified_weight_keeps_its_value_when_more_are_verified(residual):
    model, few = net(), some(0.2)
    more = {name: mask | some(0.5, seed=1)[name] for name, mask in few.items()}
    first, then = (cim.chip_weights(model, chip(masks, residual)) for masks in (few, more))
    for name, mask in few.items():
        assert torch.equal(first[name][mask], then[name][mask])
        assert not torch.equal(first[name], then[name])


def test_nothing_verified_is_the_plain_chip():
    model = net()
    for masks in ({}, some(0.0)):
        found, raw = cim.chip_weights(model, chip(masks)), cim.chip_weights(model, plain())
        assert all(torch.equal(found[name], raw[name]) for name in raw)


def test_residuals_have_their_std_and_are_independent_of_the_first_write():
    model = net()
    everything = some(1.1)
    weight = model[0].weight.detach()
    scale = weight.abs().max()
    first = (cim.chip_weights(model, plain())["0.weight"] - weight) / scale
    left = (cim.chip_weights(model, chip(everything))["0.weight"] - weight) / scale
    other = (cim.chip_weights(model, chip(everything, index=1))["0.weight"] - weight) / scale
    assert left.std().item() == pytest.approx(0.03, rel=0.06)
    for a, b in ((first, left), (left, other)):
        assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1]) < 0.07


@pytest.mark.parametrize("residual", RESIDUALS)
def test_deviation_is_what_the_chip_adds(residual):
    model, masks = net(), some(0.5)
    weight = model[0].weight.detach()
    stored = cim.chip_weights(model, chip(masks, residual))["0.weight"]
    torch.testing.assert_close(weight + chip(masks, residual).deviation("0.weight", weight), stored)


@pytest.mark.parametrize("residual", RESIDUALS)
def test_the_gradient_is_that_of_the_clean_weight(residual):
    model, inputs = net(), torch.randn(5, 50)
    with cim.on_chip(model, chip(some(0.5), residual)):
        model(inputs).sum().backward()
    assert model[0].weight.grad is not None
    copy = net()
    copy.load_state_dict({**copy.state_dict(), **cim.chip_weights(model, chip(some(0.5), residual))})
    copy(inputs).sum().backward()
    torch.testing.assert_close(model[0].weight.grad, copy[0].weight.grad)


@pytest.mark.parametrize("residual", [None, WriteVerify()])
def test_it_works_wherever_a_chip_does(residual):
    from lightning_cim.evaluation.passes import ChipPasses
    from tests.evaluation.toys import loader, trainer

    model = Classifier()
    masks = {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters() if p.ndim > 1}
    verified = VerifiedChip(VARIATION, 0, 2, verified=masks, residual=residual)
    (accuracy,), (loss,) = by_hand(model, [verified], dataset())
    row = ChipPasses(trainer(), model, loader(), "test").run(verified)
    assert row["test/loss"] == pytest.approx(loss, rel=1e-5)
    assert row["test/acc"] == pytest.approx(accuracy, abs=1e-6)
    exported = cim.export_state_dict(model, chip=verified)
    assert torch.equal(exported["net.0.weight"], cim.chip_weights(model, verified)["net.0.weight"])


def test_half_precision_weights():
    model = net().bfloat16()
    for residual in (None, WriteVerify()):
        found = cim.chip_weights(model, chip(some(0.5), residual))
        assert all(value.dtype is torch.bfloat16 for value in found.values())


def test_pruned_weights_have_no_device_to_verify():
    model = net()
    sparse = cim.StructuredSparsity("2:4")
    sparse.attach(None, model)
    sparse.make_transform().update(model)
    try:
        stored = cim.chip_weights(model, chip(some(1.1)))
    finally:
        sparse.detach()
    for name, mask in sparse.masks.items():
        assert (stored[name][~mask] == 0).all()
        assert (stored[name][mask] != model.state_dict()[name][mask]).all()


def test_cycles_are_those_of_the_simulated_loop():
    model = net()
    weight = model[0].weight.detach()
    simulated = chip(some(0.5), WriteVerify())
    written = simulated.settle("0.weight", weight)
    first = simulated.variation.deviation(weight, plain().draw("0.weight", weight))
    assert torch.equal(written.cycles == 0, (first / weight.abs().max()).abs() <= WriteVerify().tolerance)
    kept = chip(some(0.5), WriteVerify(), settled={})
    assert kept.settle("0.weight", weight) is kept.verify(some(0.7)).settle("0.weight", weight)
    assert torch.equal(kept.settle("0.weight", weight).error, written.error)
    with pytest.raises(TypeError, match="no WriteVerify"):
        chip(some(0.5)).settle("0.weight", weight)


def test_chips_with_other_masks_are_other_chips():
    first, second = chip(some(0.5)), chip(some(0.2))
    assert first != second
    assert first == first
    assert len({first, second}) == 2
