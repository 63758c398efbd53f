"""A chip is a pure function of (seed, index, parameter name)."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_cim as cim
from lightning_cim.chip.population import Chip, draw_seed
from lightning_cim.variation.device_and_cycle import DeviceAndCycle
from lightning_cim.variation.faults import StuckAt

VARIATION = cim.Gaussian(0.1)


def net(width=3):
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))


def deviations(model, chip):
    clean = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    return {name: value - clean[name] for name, value in cim.chip_weights(model, chip).items()}


def test_no_seed_is_used_twice_over_many_chips():
    seeds = {draw_seed(0, "chip", index, "fc.weight") for index in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**32 for seed in seeds)


@given(
    seed=st.integers(-(2**63), 2**63),
    name=st.text(max_size=20),
    stream=st.sampled_from(["chip", "validation", "train/0"]),
    first=st.integers(0, 2**32 - 1),
    second=st.integers(0, 2**32 - 1),
)
@settings(max_examples=200, deadline=None)
def test_two_chips_of_one_parameter_never_share_a_seed(seed, name, stream, first, second):
    same = draw_seed(seed, stream, first, name) == draw_seed(seed, stream, second, name)
    assert same == (first == second)


def test_neighbouring_seeds_streams_and_names_do_not_overlap():
    """Chip r + 1 of one seed is not chip r of the next."""
    seeds = [
        draw_seed(seed, stream, index, name)
        for seed, stream, index, name in itertools.product(
            range(10), ("chip", "validation", "train/0", "train/1"), range(100), ("a.weight", "b.weight")
        )
    ]
    assert len(set(seeds)) == len(seeds)


def test_draws_of_neighbouring_chips_are_uncorrelated():
    weight = torch.ones(10_000)
    draws = torch.stack([Chip(VARIATION, 0, index).deviation("w", weight) for index in range(20)])
    correlation = torch.corrcoef(draws) - torch.eye(20)
    assert correlation.abs().max() < 5 / 100  # five standard errors of 1 / sqrt(10000)


def test_same_chip_twice_and_different_chips():
    model = net()
    population = cim.ChipPopulation(model, VARIATION, seed=3)
    first, again, other = (cim.chip_weights(model, population[r]) for r in (5, 5, 6))
    assert list(first) == ["0.weight", "2.weight"]
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_seed_and_stream_make_another_population():
    weight = torch.ones(50)
    base = Chip(VARIATION, 0, 1).deviation("w", weight)
    for chip in (Chip(VARIATION, 1, 1), Chip(VARIATION, 0, 1, stream="validation")):
        assert not torch.equal(chip.deviation("w", weight), base)


def test_global_random_state_is_neither_read_nor_changed():
    weight = torch.ones(50)
    torch.manual_seed(0)
    first, state = Chip(VARIATION, 0, 1).deviation("w", weight), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(Chip(VARIATION, 0, 1).deviation("w", weight), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_parameter_is_independent_of_the_others():
    """Neither their order nor their number matters."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(5, 2)})
    turned = nn.ModuleDict({"c": nn.Conv1d(1, 1, 2), "b": model["b"], "a": model["a"]})
    chip = Chip(VARIATION, 0, 4)
    here, there = deviations(model, chip), deviations(turned, chip)
    for name in ("a.weight", "b.weight"):
        assert torch.equal(here[name], there[name])
    only = deviations(model, Chip(VARIATION, 0, 4, cim.Mapping(exclude=["a"])))
    assert list(only) == ["b.weight"]
    assert torch.equal(only["b.weight"], here["b.weight"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_deviation_is_independent_of_the_dtype(dtype):
    weight = torch.randint(-8, 9, (6, 5)).float() / 8  # exact in every dtype
    chip = Chip(VARIATION, 0, 2)
    assert torch.equal(chip.deviation("w", weight.to(dtype)), chip.deviation("w", weight))


def test_deviation_scales_with_the_weights_found():
    weight = torch.randn(20)
    chip = Chip(VARIATION, 0, 2)
    assert torch.equal(chip.deviation("w", 2 * weight), 2 * chip.deviation("w", weight))


def test_sigma_scales_one_and_the_same_draw():
    weight = torch.randn(20)
    small, large = (Chip(cim.Gaussian(sigma), 0, 2).deviation("w", weight) for sigma in (0.1, 0.2))
    torch.testing.assert_close(large, 2 * small)


def test_portable_and_local_chips_agree_on_the_cpu():
    weight = torch.randn(20)
    local = Chip(VARIATION, 0, 2, portable=False).deviation("w", weight)
    assert torch.equal(local, Chip(VARIATION, 0, 2).deviation("w", weight))


def test_population_is_lazy_indexable_and_endless():
    population = cim.ChipPopulation(net(), VARIATION, seed=9)
    assert [chip.index for chip in itertools.islice(population, 3)] == [0, 1, 2]
    assert population[10**6] == Chip(VARIATION, 9, 10**6)
    with pytest.raises(IndexError, match="chips are numbered from 0, got -1"):
        population[-1]


def test_population_refuses_what_is_no_variation():
    with pytest.raises(ValueError, match=r"variation must be a Variation such as Gaussian\(sigma=0.1\), got 0.1"):
        cim.ChipPopulation(net(), 0.1)


def test_same_logits_for_every_batch_size():
    torch.manual_seed(0)
    model, x = net().eval(), torch.randn(64, 4)
    outputs = []
    for size in (1, 7, 64):
        with cim.on_chip(model, cim.ChipPopulation(model, VARIATION)[3]), torch.no_grad():
            outputs.append(torch.cat([model(batch) for batch in x.split(size)]))
    torch.testing.assert_close(outputs[0], outputs[2])
    torch.testing.assert_close(outputs[1], outputs[2])


def test_the_first_write_draws_what_a_chip_always_drew():
    weight = torch.randn(20)
    by_hand = VARIATION.draw(weight.shape, torch.Generator().manual_seed(draw_seed(3, "chip", 2, "w")))
    assert torch.equal(Chip(VARIATION, 3, 2).draw("w", weight), by_hand)
    assert torch.equal(Chip(VARIATION, 3, 2, write=0).draw("w", weight), by_hand)


def test_another_write_is_redrawn_from_the_first_one():
    weight = torch.randn(20)
    both = DeviceAndCycle(cim.Gaussian(0.3), cim.Gaussian(0.1))
    chip = Chip(both, 3, 2)
    third = chip.rewritten().rewritten()
    assert third == Chip(both, 3, 2, write=2)
    again = torch.Generator().manual_seed(draw_seed(3, "chip/write2", 2, "w"))
    expected = both.redraw(weight.shape, chip.draw("w", weight), again)
    for found, number, first in zip(third.draw("w", weight), expected, chip.draw("w", weight), strict=True):
        assert torch.equal(found, number)
        assert torch.equal(found, first) == (number is expected[0])
    assert torch.equal(third.deviation("w", weight), third.deviation("w", weight))


def test_writes_of_a_variation_without_parts_are_independent():
    weight = torch.ones(10_000)
    chips = [Chip(VARIATION, 0, index, write=write) for index in range(4) for write in range(4)]
    draws = torch.stack([chip.deviation("w", weight) for chip in chips])
    correlation = torch.corrcoef(draws) - torch.eye(len(chips))
    assert correlation.abs().max() < 5 / 100


def test_faults_survive_another_write():
    weight = torch.randn(30, 20)
    chip = Chip(cim.Gaussian(0.0) + StuckAt(0.1, 0.1), 0, 1)
    assert chip.deviation("w", weight).any()
    assert torch.equal(chip.rewritten().deviation("w", weight), chip.deviation("w", weight))


def test_a_rewritten_chip_lies_under_a_model():
    model = net()
    chip = Chip(VARIATION, 0, 1)
    first, second = cim.chip_weights(model, chip), cim.chip_weights(model, chip.rewritten())
    for name in first:
        assert not torch.equal(first[name], second[name])


def test_writes_are_numbered_from_0_and_given_by_name():
    with pytest.raises(ValueError, match="writes of a chip are numbered from 0, got -1"):
        Chip(VARIATION, 0, 0, write=-1)
    with pytest.raises(TypeError):  # the place belongs to what subclasses add
        Chip(VARIATION, 0, 0, cim.Mapping(), "chip", True, 1)
