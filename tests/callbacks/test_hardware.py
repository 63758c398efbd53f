"""Sparsity, precision and export: what a fit computes with and what is stored."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import lightning_cim as cim
from lightning_cim.chip.quantise import quantise_weight
from lightning_cim.chip.sparsity import balanced_mask, nm_mask
from tests.callbacks.test_variation_injection import Recording
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer

NAMES = ["net.0.weight", "net.2.weight"]


def fit(callbacks, model=None, **options):
    model = model or Recording()
    trainer(callbacks=callbacks, **options).fit(model, loader(8))
    return model


def test_masked_then_quantised_then_deviated():
    """The order of the chain holds whatever the order of the callbacks."""
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(4, activation_bits=None)
    model = fit([cim.VariationInjection(VARIATION), precise, sparse])
    clean = model.net[0].weight.detach()
    mask = nm_mask(clean, 2, 4)
    levels, step = quantise_weight(clean * mask, 4, 0, mask)
    for index, seen in enumerate(model.seen):
        deviation = cim.Chip(VARIATION, 0, index, stream="train/0").deviation("net.0.weight", levels * step)
        torch.testing.assert_close(seen, levels * step + deviation * mask)
        assert torch.equal(seen == 0, ~mask)


@pytest.mark.parametrize("bits", [8, 4, 2, 1])
def test_steps_see_quantised_weights_and_the_optimizer_full_precision(bits):
    model = fit([cim.MixedPrecision(bits, activation_bits=None)])
    clean = model.net[0].weight.detach()
    levels, step = quantise_weight(clean, bits)
    assert torch.equal(model.seen[0], levels * step)
    assert not torch.equal(clean, levels * step)


def test_training_moves_full_precision_weights_by_straight_through_gradients():
    model, reference = Recording(lr=0.5), Recording(lr=0.5)
    fit([cim.MixedPrecision(2, activation_bits=None)], model)
    optimizer = reference.configure_optimizers()
    for batch in loader(8):
        stored = {}
        for name in NAMES:
            weight = reference.get_parameter(name).detach()
            levels, step = quantise_weight(weight, 2)
            stored[name] = (levels * step).requires_grad_()
        logits = torch.func.functional_call(reference, stored, (batch[0],))
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, batch[1]).backward()
        for name in NAMES:
            reference.get_parameter(name).grad = stored[name].grad
        optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, reference.state_dict()[name])


def test_activations_are_quantised_at_the_input_of_each_mapped_layer():
    seen = []
    model = Recording()
    precise = cim.MixedPrecision(8, activation_bits=3)
    handle = model.net[2].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0].detach()))
    fit([precise], model)
    handle.remove()
    assert list(precise.activations) == ["net.0", "net.2"]
    assert precise.activations["net.0"].signed
    assert not precise.activations["net.2"].signed  # behind a ReLU
    assert seen[-1].unique().numel() <= 8
    assert not model.net[0]._forward_pre_hooks


def test_ranges_follow_training_only_and_travel_with_the_state():
    precise = cim.MixedPrecision(8, activation_bits=8)
    model = fit([precise])
    before = precise.state_dict()
    over = trainer(callbacks=[precise])
    (clean,) = over.test(model, loader(), verbose=False)
    assert precise.state_dict() == before
    other = cim.MixedPrecision(8, activation_bits=8)
    other.load_state_dict(before)
    assert trainer(callbacks=[other]).test(model, loader(), verbose=False)[0] == clean


def test_integers_are_what_the_steps_computed_with():
    sparse = cim.StructuredSparsity("balanced", sparsity=0.5)
    precise = cim.MixedPrecision({"net.0": 2}, activation_bits=None)
    model = fit([sparse, precise])
    stored = precise.integers(model, sparse.masks)
    assert list(stored) == ["net.0.weight"]
    integers, steps, bits = stored["net.0.weight"]
    assert bits == 2
    assert torch.equal(integers, integers.round())
    assert torch.equal(integers * steps, model.seen[-1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cim.MixedPrecision(3), "MixedPrecision: weight bits of .* must be one of"),
        (lambda: cim.MixedPrecision(8, 1), "MixedPrecision: activation bits must lie between 2 and 16, got 1"),
        (lambda: cim.StructuredSparsity("2-4"), "pattern must be 'balanced' or 'n:m' .* got '2-4'"),
        (lambda: cim.StructuredSparsity("5:4"), "got '5:4'"),
        (lambda: cim.StructuredSparsity("0:4"), "got '0:4'"),
        (lambda: cim.StructuredSparsity("balanced", 1.0), r"sparsity must lie in \[0, 1\), got 1.0"),
        (
            lambda: cim.StructuredSparsity(method="magic"),
            "method must be 'magnitude', 'gradual' or 'sr-ste', got 'magic'",
        ),
        (lambda: cim.StructuredSparsity(method="gradual"), "needs end_epoch > start_epoch=0, got None"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(MisconfigurationException, match=message):
        make()


def test_bits_of_a_layer_that_does_not_exist_are_refused():
    with pytest.raises(
        MisconfigurationException, match=r"weight_bits names 'conv9', which fits no mapped parameter of"
    ):
        fit([cim.MixedPrecision({"conv9": 8})])


def test_magnitude_prunes_once_at_its_epoch():
    model = Recording(lr=0.5)
    sparse = cim.StructuredSparsity("balanced", sparsity=0.5, start_epoch=1)
    fit([sparse], model, max_epochs=3)
    for seen in model.seen[:6]:
        assert (seen != 0).all()
    masks = [seen != 0 for seen in model.seen[6:]]
    assert torch.equal(masks[0], balanced_mask(model.seen[6] + 0, 0.5))
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert torch.equal(sparse.masks["net.0.weight"], masks[0])


def test_gradual_follows_the_cubic_schedule():
    model = Recording()
    fit([cim.StructuredSparsity("balanced", 0.5, "gradual", start_epoch=1, end_epoch=4)], model, max_epochs=6)
    kept = [int((seen != 0).sum(1).unique()) for seen in model.seen[::6]]
    shares = [0.0, *(1 - (1 - i / 4) ** 3 for i in (1, 2, 3, 4)), 1.0]
    assert kept == [round(4 * (1 - 0.5 * share)) for share in shares]


def test_sr_ste_decays_pruned_weights_and_keeps_the_last_masks():
    model, reference = Recording(lr=0.1), Recording(lr=0.1)
    sparse = cim.StructuredSparsity("1:4", method="sr-ste", decay=0.5)
    fit([sparse], model)
    optimizer = reference.configure_optimizers()
    for batch in loader(8):
        masks = {name: nm_mask(reference.get_parameter(name), 1, 4) for name in NAMES}
        stored = {name: (reference.get_parameter(name).detach() * masks[name]).requires_grad_() for name in NAMES}
        optimizer.zero_grad()
        nn.functional.cross_entropy(torch.func.functional_call(reference, stored, (batch[0],)), batch[1]).backward()
        for name in NAMES:
            weight = reference.get_parameter(name)
            weight.grad = stored[name].grad + 0.5 * ~masks[name] * weight.detach()
        optimizer.step()
    for name in NAMES:
        torch.testing.assert_close(model.get_parameter(name), reference.get_parameter(name))
        assert torch.equal(sparse.masks[name], nm_mask(model.get_parameter(name), 1, 4))


def test_masks_come_back_with_a_checkpoint(tmp_path):
    sparse, model = cim.StructuredSparsity("2:4"), Recording(lr=0.5)
    over = trainer(callbacks=[sparse])
    over.fit(model, loader(8))
    over.save_checkpoint(tmp_path / "run.ckpt")
    again, resumed = cim.StructuredSparsity("2:4"), Recording(lr=0.5)
    trainer(callbacks=[again], max_epochs=2).fit(resumed, loader(8), ckpt_path=tmp_path / "run.ckpt")
    for name in NAMES:
        assert torch.equal(again.masks[name], sparse.masks[name])
    for seen in resumed.seen:
        assert torch.equal(seen == 0, ~sparse.masks["net.0.weight"])
    (result,) = trainer(callbacks=[again]).test(resumed, loader(), verbose=False)
    stored = Classifier()
    stored.load_state_dict(cim.export_state_dict(resumed, [again]))
    assert trainer().test(stored, loader(), verbose=False)[0] == pytest.approx(result, rel=1e-6)


def test_export_loads_strictly_and_changes_nothing():
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(2, activation_bits=None)
    model = fit([sparse, precise])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = cim.export_state_dict(model, [cim.VariationInjection(VARIATION), sparse, precise])
    assert list(exported) == list(before)
    nn.Module.load_state_dict(Classifier(), exported, strict=True)
    assert torch.equal(exported["net.0.weight"], model.seen[-1])
    assert torch.equal(exported["net.0.bias"], before["net.0.bias"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert exported[name].data_ptr() != value.data_ptr()
        assert not exported[name].requires_grad


def test_export_of_a_chip_is_what_evaluation_saw():
    sparse = cim.StructuredSparsity("2:4")
    model = fit([sparse])
    chip = cim.ChipPopulation(model, VARIATION)[3]
    exported = cim.export_state_dict(model, [sparse], chip)
    stored = Classifier()
    stored.load_state_dict(exported)
    (alone,) = trainer().test(stored, loader(), verbose=False)
    with pytest.warns(UserWarning, match="chips are few"):
        result = cim.evaluate_chips(
            trainer(callbacks=[sparse]), model, loader(), variation=VARIATION, chips=4, progress=False
        )
    assert result.values["test/loss"][3] == pytest.approx(alone["test/loss"], rel=1e-6)
    assert (exported["net.0.weight"] == 0).sum() == 16
