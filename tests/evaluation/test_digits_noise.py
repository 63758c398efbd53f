"""What variation costs a trained network, and what training under it gives back, on real digits."""

from statistics import median

import pytest
import torch

from lightning_cim import ChipPopulation, on_chip
from tests.helpers.digits import accuracy, digits, full_scale, trained_digits

SEEDS = (0, 1, 2)
SIGMA = 0.3
CHIPS = 40


def chip_mean(model, test):
    """Mean accuracy over chips, each held for the whole test set."""
    population = ChipPopulation(model, full_scale(SIGMA), seed=0)
    accuracies = []
    for index in range(CHIPS):
        with on_chip(model, population[index]):
            accuracies.append(accuracy(model, test))
    return sum(accuracies) / CHIPS


@pytest.mark.slow
def test_clean_training_falls_on_chips_and_training_under_variation_recovers():
    test = digits()[2]
    clean = {seed: trained_digits(seed=seed) for seed in SEEDS}
    noisy = {seed: trained_digits(SIGMA, seed) for seed in SEEDS}
    before = {seed: accuracy(model, test) for seed, model in clean.items()}
    fallen = {seed: chip_mean(model, test) for seed, model in clean.items()}
    recovered = {seed: chip_mean(model, test) for seed, model in noisy.items()}
    assert median(before.values()) >= 0.96
    assert median(before[seed] - fallen[seed] for seed in SEEDS) >= 0.20
    assert median(recovered[seed] - fallen[seed] for seed in SEEDS) >= 0.15


def test_no_variation_costs_nothing():
    """The drop above is the chips' and not the loop's."""
    test, model = digits()[2], trained_digits(epochs=1)
    before = accuracy(model, test)
    with on_chip(model, ChipPopulation(model, full_scale(0.0))[0]):
        assert accuracy(model, test) == before
    assert torch.equal(model[0].weight, trained_digits(epochs=1)[0].weight)
