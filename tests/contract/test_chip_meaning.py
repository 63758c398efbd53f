"""Promise 6: a chip means the same thing in training, evaluation and export."""

import copy

import numpy as np
import pytest
import torch

import lightning_cim as cim
from lightning_cim.chip.population import Chip
from tests.helpers.boring import BATCHES, FLAVOURS, MAPPED, assert_equal, data, fit, make, make_trainer
from tests.helpers.cases import SIGMA, everything, held_validation, injection, magnitude, precision, strategy

TEST = data(batches=3, batch_size=7, seed=4)


def pruned_and_quantised(flavour):
    return {"callbacks": [cim.StructuredSparsity("2:4"), cim.MixedPrecision(weight_bits=2, activation_bits=8)]}


def pruned_quantised_and_noisy(flavour):
    return {"callbacks": [*pruned_and_quantised(flavour)["callbacks"], *injection(flavour)["callbacks"]]}


def exported(run, chip):
    state = cim.export_state_dict(run.model, run.trainer.callbacks, chip)
    return {name: state[name] for name in MAPPED}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [injection, strategy, pruned_quantised_and_noisy])
def test_training_sees_the_chip_that_is_exported(arrange, flavour):
    run = fit(flavour, arrange, model=make(flavour, lr=0.0))
    assert len(run.model.seen) == 2 * BATCHES
    for number, seen in enumerate(run.model.seen):
        chip = Chip(SIGMA, 0, number, stream="train/0", portable=False)
        assert_equal(seen, exported(run, chip), f"chip of batch {number}")
        if arrange is not pruned_quantised_and_noisy:
            assert_equal(seen, cim.chip_weights(run.model, chip), f"chip of batch {number}")
            with cim.on_chip(run.model, chip):
                assert_equal(seen, run.model.weights(), f"chip of batch {number}")
    assert len({tuple(seen["linear.weight"].flatten().tolist()) for seen in run.model.seen}) == 2 * BATCHES


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [injection, magnitude, precision, everything, strategy])
def test_evaluation_sees_the_chip_that_is_exported(arrange, flavour):
    run = fit(flavour, arrange)
    population = cim.ChipPopulation(run.model, SIGMA, seed=5)
    before = run.model.weights()
    run.model.seen_in_test.clear()
    evaluate(run.trainer, run.model, chips=3, seed=5)
    assert_equal(run.model.weights(), before)
    assert len(run.model.seen_in_test) == 3 * len(TEST)
    for number, seen in enumerate(run.model.seen_in_test):
        assert_equal(seen, exported(run, population[number // len(TEST)]), f"batch {number}")
    if arrange in (injection, strategy):
        with cim.on_chip(run.model, population[2]):
            assert_equal(run.model.seen_in_test[-1], run.model.weights())
        assert_equal(run.model.seen_in_test[-1], cim.chip_weights(run.model, population[2]))


def test_on_chip_inside_a_fit_keeps_masks_and_quantisation():
    flavour, found = FLAVOURS[0], []
    model = make(flavour, lr=0.0)
    chip = cim.ChipPopulation(model, SIGMA)[1]

    class Look(cim.MonteCarloEvaluation):
        def on_train_epoch_end(self, trainer, pl_module):
            found.append(cim.chip_weights(pl_module, chip))
            with cim.on_chip(pl_module, chip):
                found.append(pl_module.weights())

    run = fit(flavour, pruned_and_quantised, model=model, extra=[Look(SIGMA, chips=1)], max_epochs=1)
    assert_equal(found[0], found[1])
    assert_equal(found[0], exported(run, chip))


def test_held_validation_sees_the_chips_of_its_stream():
    flavour, seen = FLAVOURS[0], []
    model = make(flavour, lr=0.0)
    step = type(model).validation_step

    def spy(self, batch, batch_idx):
        seen.append(self.weights())
        return step(self, batch, batch_idx)

    model.__class__ = type("Spied", (type(model),), {"validation_step": spy})
    fit(flavour, held_validation, model=model, max_epochs=1, num_sanity_val_steps=0)
    chips = [Chip(SIGMA, 0, number, stream="validation") for number in (0, 1)]
    assert len(seen) == 4
    for number, weights in enumerate(seen):
        assert_equal(weights, cim.chip_weights(model, chips[number % 2]))


@pytest.mark.parametrize("arrange", [injection, everything])
def test_a_chip_alone_is_the_chip_of_many(arrange):
    run = fit(FLAVOURS[0], arrange)
    many = evaluate(run.trainer, run.model, chips=5)
    few = evaluate(run.trainer, run.model, chips=2)
    for metric in many.metrics:
        assert np.array_equal(few.of(metric), many.of(metric)[:2])
        assert len(set(many.of("test/loss"))) == 5
    alone = copy.deepcopy(run.model)
    alone.load_state_dict(cim.export_state_dict(run.model, run.trainer.callbacks, cim.ChipPopulation(alone, SIGMA)[4]))
    (found,) = make_trainer(FLAVOURS[0], callbacks=activations_of(run.trainer)).test(alone, TEST, verbose=False)
    assert found["test/acc"] == pytest.approx(many.of("test/acc")[4], abs=1e-6)
    assert found["test/loss"] == pytest.approx(many.of("test/loss")[4], rel=1e-5)


def activations_of(trainer):
    """The trained activation quantisers, without those of the weights, which would round a chip's deviations away."""
    twins = []
    for callback in trainer.callbacks:
        if isinstance(callback, cim.MixedPrecision):
            twins.append(cim.MixedPrecision(8, callback.activation_bits))
            twins[-1].load_state_dict(callback.state_dict())
            twins[-1].make_transform().bits_of = lambda name: None
    return twins


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [injection, everything])
def test_batch_size_changes_no_metric(arrange, flavour):
    run = fit(flavour, arrange)
    population = [(batch_size, data(1, 64, seed=6).dataset) for batch_size in (1, 7, 64)]
    results = [
        evaluate(run.trainer, run.model, torch.utils.data.DataLoader(dataset, batch_size=size), chips=3)
        for size, dataset in population
    ]
    for result in results[1:]:
        assert result.of("test/acc") == pytest.approx(results[0].of("test/acc"), abs=1e-6)
        assert result.of("test/loss") == pytest.approx(results[0].of("test/loss"), rel=1e-5)


@pytest.mark.parametrize("arrange", [injection, everything])
def test_workers_change_nothing(arrange):
    run = fit(FLAVOURS[0], arrange)
    one = evaluate(run.trainer, run.model, chips=4)
    two = evaluate(run.trainer, run.model, chips=4, workers=2)
    for metric in one.metrics:
        assert np.array_equal(one.of(metric), two.of(metric))


def test_activation_ranges_come_from_training_not_from_the_first_chip():
    model = make(FLAVOURS[0])
    trainer = make_trainer(FLAVOURS[0], callbacks=[cim.MixedPrecision(weight_bits=8, activation_bits=4)])
    with pytest.raises(Exception, match="activation ranges"):
        evaluate(trainer, model, chips=2)
    trainer.validate(model, data(), verbose=False)
    evaluate(trainer, model, chips=2)


def evaluate(trainer, model, loader=TEST, *, chips, seed=0, workers=1):
    return cim.evaluate_chips(
        trainer, model, loader, variation=SIGMA, chips=chips, seed=seed, k=50, workers=workers, progress=False
    )
