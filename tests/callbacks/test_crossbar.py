"""Crossbars with circuits while a Trainer runs."""

import copy
import importlib

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim._compat import MisconfigurationException
from lightning_cim.callbacks.crossbar import Crossbar
from lightning_cim.chip.circuit import Circuit
from lightning_cim.chip.crossbar import on_crossbar
from lightning_cim.chip.ir_drop import dropped_weight
from tests.callbacks.test_variation_injection import Recording
from tests.evaluation.toys import VARIATION, Classifier, dataset, loader, trainer
from tests.helpers.boring import FLAVOURS, assert_equal, checkpoint_of, data, fit, make, make_trainer

CIRCUIT = {"rows": 3, "cols": 2, "adc_bits": 5, "dac_bits": 5, "wire_resistance": 1.0, "g_max": 25e-6}
NOISY = {**CIRCUIT, "output_noise": 0.05}


def trained(crossbar, model=None, **options):
    model = model or Classifier()
    trainer(callbacks=[crossbar], **options).fit(model, loader(8))
    return model


def test_a_fit_is_a_loop_on_crossbars():
    """Every step of the fit, weights and ranges, is what a plain loop gives with the same circuits."""
    crossbar, model, reference = Crossbar(**CIRCUIT), Classifier(lr=0.5), Classifier(lr=0.5)
    trained(crossbar, model, max_epochs=2)
    optimizer = reference.configure_optimizers()
    with on_crossbar(reference, Circuit(**CIRCUIT)) as crossbars:
        crossbars.observing = True
        for inputs, labels in [*loader(8), *loader(8)]:
            optimizer.zero_grad()
            nn.functional.cross_entropy(reference(inputs), labels).backward()
            optimizer.step()
        assert_equal(crossbar.state_dict()["converters"], crossbars.state_dict())
    assert_equal(dict(model.state_dict()), dict(reference.state_dict()))
    assert "forward" not in model.net[0].__dict__
    plain = Classifier(lr=0.5)
    trainer(max_epochs=2).fit(plain, loader(8))
    assert not torch.equal(plain.net[0].weight, model.net[0].weight)


def test_validation_and_test_move_no_range():
    crossbar = Crossbar(**NOISY)
    model = trained(crossbar)
    before = crossbar.state_dict()
    over = trainer(callbacks=[crossbar])
    first = over.test(model, loader(), verbose=False)
    assert over.test(model, loader(), verbose=False) == first  # the same noise each time
    over.validate(model, loader(), verbose=False)
    assert crossbar.state_dict() == before
    other = Crossbar(**NOISY)
    other.load_state_dict(copy.deepcopy(before))
    assert trainer(callbacks=[other]).test(model, loader(), verbose=False) == first
    assert trainer().test(model, loader(), verbose=False) != first


@pytest.mark.parametrize("circuit", [CIRCUIT, NOISY])
def test_chips_are_evaluated_on_their_crossbars(circuit):
    crossbar = Crossbar(**circuit)
    model = trained(crossbar)

    def losses(chips, **options):
        over, options = trainer(callbacks=[crossbar]), {**options, "variation": VARIATION, "progress": False}
        with pytest.warns(UserWarning, match="chips are few"):
            found = cim.evaluate_chips(over, model, loader(48), chips=chips, **options)
        return list(found.of("test/loss"))

    before, several = crossbar.state_dict(), losses(5)
    assert several == losses(5, workers=2)
    assert several[:2] == losses(2)
    assert crossbar.state_dict() == before
    inputs, labels = dataset().tensors
    ranges = before["converters"]
    for index, found in enumerate(several):
        chip = cim.ChipPopulation(model, VARIATION)[index]
        with torch.no_grad(), cim.on_chip(model, chip), on_crossbar(model, Circuit(**circuit), ranges=ranges) as on:
            on.noise.restart(f"evaluation/{chip.stream}/{chip.seed}", chip.index)
            assert nn.functional.cross_entropy(model(inputs), labels).item() == pytest.approx(found, rel=1e-5)


def test_wires_are_computed_once_for_each_chip(monkeypatch):
    crossbar, calls = Crossbar(**CIRCUIT), []
    model = trained(crossbar)

    def counted(*args):
        calls.append(None)
        return dropped_weight(*args)

    monkeypatch.setattr("lightning_cim.chip.crossbar.dropped_weight", counted)
    with pytest.warns(UserWarning, match="chips are few"):
        cim.evaluate_chips(
            trainer(callbacks=[crossbar]), model, loader(8), variation=VARIATION, chips=3, progress=False
        )
    assert len(calls) == 3 * 2  # chips, layers; not batches


def test_each_chip_and_batch_has_noise_of_its_own():
    crossbar = Crossbar(output_noise=0.2, momentum=1.0)
    model = trained(crossbar, Classifier(lr=0.0), max_epochs=2)
    with pytest.warns(UserWarning, match="chips are few"):
        found = cim.evaluate_chips(
            trainer(callbacks=[crossbar]), model, loader(), variation=VARIATION.scaled(1e-9), chips=4, progress=False
        )
    assert len(set(found.of("test/loss"))) == 4
    assert crossbar.state_dict()["batches"] == 12
    runs = []
    for _ in range(2):
        model = trained(Crossbar(output_noise=0.2), Recorded(lr=0.0), max_epochs=2)
        runs.append(model.losses)
    assert len(set(runs[0])) == 12
    assert runs[0] == runs[1]


class Recorded(Classifier):
    losses = ()

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.losses = (*self.losses, loss.item())
        return loss


def test_chips_need_ranges_where_there_are_any():
    model = Classifier()
    for circuit in ({"adc_bits": 6}, {"dac_bits": 6}, {"output_noise": 0.1}):
        crossbar = Crossbar(**circuit)
        with pytest.raises(MisconfigurationException, match="Crossbar has no converter ranges yet"):
            crossbar.for_evaluation()
        trainer(callbacks=[crossbar]).validate(model, loader(), verbose=False)
        crossbar.for_evaluation()
    Crossbar(rows=4, wire_resistance=1.0, g_max=1e-6).for_evaluation()


def test_goes_with_quantisation_sparsity_and_variation():
    """Weights: pruned, quantised, deviated, then on crossbars. Activations: quantised, then the DAC."""
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(4, activation_bits=3)
    crossbar, driven = Crossbar(rows=3, adc_bits=8, dac_bits=8, percentile=100), []
    model = Recording()
    callbacks = [crossbar, cim.VariationInjection(VARIATION), precise, sparse]
    over = trainer(callbacks=callbacks)
    handle = model.net[2].register_forward_hook(lambda layer, inputs, output: driven.append(inputs[0].detach()))
    over.fit(model, loader(8))
    handle.remove()
    assert driven[-1].unique().numel() <= 8
    assert (model.seen[-1] == 0).any()
    assert crossbar._crossbars.converters["net.2"].dac.range > 0
    with pytest.warns(UserWarning, match="chips are few"):
        found = cim.evaluate_chips(over, model, loader(48), variation=VARIATION, chips=2, progress=False)
    chip = cim.ChipPopulation(model, VARIATION)[1]
    stored = Classifier()
    stored.load_state_dict(cim.export_state_dict(model, callbacks, chip))  # circuits are not in the weights
    assert_equal(
        cim.export_state_dict(model, callbacks, chip), cim.export_state_dict(model, [sparse, precise], chip), "export"
    )
    activations = cim.MixedPrecision(8, activation_bits=3)
    activations.load_state_dict(precise.state_dict())
    activations.make_transform().bits_of = lambda name: None
    (alone,) = trainer(callbacks=[activations, crossbar]).test(stored, loader(48), verbose=False)
    assert alone["test/loss"] == pytest.approx(found.of("test/loss")[1], rel=1e-5)


def test_a_copy_made_during_a_run_is_plain_and_monte_carlo_puts_it_on_crossbars():
    class Look(cim.MonteCarloEvaluation):
        def on_train_epoch_end(self, trainer, pl_module):
            twin = copy.deepcopy(pl_module)
            seen.append((pl_module(inputs).detach(), twin(inputs).detach()))

    inputs, seen = dataset().tensors[0], []
    look, crossbar, model = Look(VARIATION, chips=2, k=50), Crossbar(**CIRCUIT), Classifier(lr=0.0)
    trainer(callbacks=[crossbar, look]).fit(model, loader(8), loader(48))
    ((on, plain),) = seen
    assert torch.equal(plain, model(inputs))
    assert not torch.equal(on, plain)
    chip, ranges = cim.Chip(VARIATION, 0, 1, stream="validation"), crossbar.state_dict()["converters"]
    with torch.no_grad(), cim.on_chip(model, chip), on_crossbar(model, Circuit(**CIRCUIT), ranges=ranges):
        loss = nn.functional.cross_entropy(model(inputs), dataset().tensors[1]).item()
    assert look.result.of("val/loss")[1] == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_checkpoints_have_the_modules_own_keys_and_load_with_ranges(flavour, tmp_path):
    crossbar = Crossbar(**NOISY)
    run = fit(flavour, lambda _: {"callbacks": [crossbar]}, max_epochs=1)
    assert list(checkpoint_of(run.trainer)["state_dict"]) == list(make(flavour).state_dict())
    run.trainer.save_checkpoint(tmp_path / "end.ckpt")
    again = Crossbar(**NOISY)
    importlib.import_module(flavour)
    over = make_trainer(flavour, callbacks=[again])
    (found,) = over.test(make(flavour, seed=3), data(), ckpt_path=tmp_path / "end.ckpt", verbose=False)
    (expected,) = make_trainer(flavour, callbacks=[crossbar]).test(run.model, data(), verbose=False)
    assert found == expected
    assert again.state_dict() == crossbar.state_dict()
    other = make_trainer(flavour, callbacks=[Crossbar(**{**NOISY, "rows": 2})])
    with pytest.raises(MisconfigurationException, match=r"Crossbar: the saved ranges of 'conv' are those of 3 blocks"):
        other.test(make(flavour), data(), ckpt_path=tmp_path / "end.ckpt", verbose=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0}, "Crossbar: rows must be"),
        ({"adc_bits": 17}, "Crossbar: adc_bits must be"),
        ({"wire_resistance": 1.0}, "Crossbar: wire_resistance=1.0 ohm needs"),
        ({"mapping": "conv"}, "Crossbar: mapping must be a Mapping"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(MisconfigurationException, match=message):
        Crossbar(**arguments)


def test_two_on_one_trainer_are_refused():
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `Crossbar`"):
        trainer(callbacks=[Crossbar(rows=2), Crossbar(rows=4)])
    other = type("OtherCrossbar", (Crossbar,), {})
    model = Classifier()
    with pytest.raises(MisconfigurationException, match="has a CircuitPlace for the stage 'circuit' already"):
        trainer(callbacks=[Crossbar(rows=2), other(rows=4)]).fit(model, loader(8))
    assert "forward" not in model.net[0].__dict__
    assert "training_step" not in model.__dict__


class WithMemory(Classifier):
    def __init__(self):
        super().__init__()
        self.memory = nn.GRUCell(2, 2)

    def forward(self, inputs):
        return self.memory(self.net(inputs))


def test_layers_without_a_circuit_are_refused_by_name_and_can_be_excluded():
    model = WithMemory()
    with pytest.raises(MisconfigurationException, match=r"Crossbar: circuits .* not around memory \(GRUCell\)"):
        trained(Crossbar(rows=4), model)
    assert "forward" not in model.net[0].__dict__
    assert "training_step" not in model.__dict__
    trained(Crossbar(rows=4, mapping=cim.Mapping(exclude=["memory"])), model)
    trained(Crossbar(), model)  # nothing to put around


def test_precision_of_the_trainer():
    crossbar, model = Crossbar(rows=3, adc_bits=8, dac_bits=8), Classifier()
    trained(crossbar, model, precision="bf16-mixed")
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    (on,) = trainer(callbacks=[crossbar], precision="bf16-mixed").test(model, loader(), verbose=False)
    (plain,) = trainer().test(model, loader(), verbose=False)
    assert on["test/loss"] == pytest.approx(plain["test/loss"], rel=0.05)


def test_training_with_coarse_converters_adapts_to_them():
    """What the callback is for: a network trained with its circuits does better on them than one trained without."""
    train, test = DataLoader(dataset(256, seed=1), 32), DataLoader(dataset(256, seed=2), 64)
    losses = {}
    for trained_with_it in (True, False):
        model, crossbar = Classifier(), Crossbar(rows=2, adc_bits=3)
        trainer(callbacks=[crossbar] if trained_with_it else [], max_epochs=20).fit(model, train)
        if not trained_with_it:  # calibrated on the same data
            model.lr = 0.0
            trainer(callbacks=[crossbar]).fit(model, train)
        (found,) = trainer(callbacks=[crossbar]).test(model, test, verbose=False)
        losses[trained_with_it] = found["test/loss"]
    assert losses[True] < 0.95 * losses[False]
