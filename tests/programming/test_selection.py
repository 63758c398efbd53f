"""The ranking against a plain sort of Python numbers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import lightning_cim as cim
from lightning_cim.programming.selection import METHODS, DeviceWeights, device_weights, rank
from lightning_cim.variation.levels import LevelGaussian

VARIATION = cim.Gaussian(0.1)


def reference(weights, sensitivity=None, std=0.1, mask=None):
    """Positions by falling score, then falling |w| / max|W|, then position: one tuple a weight, sorted."""
    entries, position = [], 0
    for name, weight in weights.items():
        flat = weight.flatten().tolist()
        largest = max(map(abs, flat))
        for index, value in enumerate(flat):
            score = 0.0 if sensitivity is None else sensitivity[name].flatten()[index].item() * (std * largest) ** 2
            magnitude = abs(value) / largest if largest else 0.0
            if mask is None or mask[name].flatten()[index]:
                entries.append((-score, -magnitude, position))
            position += 1
    return [position for *_, position in sorted(entries)]


def some_weights(seed, shapes=((3, 4), (2, 5), (4, 1))):
    generator = torch.Generator().manual_seed(seed)
    # eighths: ties are frequent, and products are exact
    return {
        name: torch.randint(-16, 17, shape, generator=generator) / 8 * 2.0**power
        for name, shape, power in zip("abc", shapes, (0, 3, -2), strict=True)
    }


def some_sensitivity(weights, seed, levels=4):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randint(0, levels, w.shape, generator=generator).float() for name, w in weights.items()}


def wrapped(weights, mask=None):
    return {name: DeviceWeights(w, None if mask is None else mask[name]) for name, w in weights.items()}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_swim_equals_the_plain_sort(seed):
    weights = some_weights(seed)
    sensitivity = some_sensitivity(weights, seed + 1)
    variation = cim.Gaussian(0.5)  # a power of two: no product is rounded
    found = rank(wrapped(weights), sensitivity=sensitivity, variation=variation)
    assert found.order.tolist() == reference(weights, sensitivity, std=0.5)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_magnitude_equals_the_plain_sort(seed):
    weights = some_weights(seed)
    assert rank(wrapped(weights), "magnitude").order.tolist() == reference(weights)


@pytest.mark.parametrize("method", METHODS)
def test_pruned_weights_are_left_out(method):
    weights = some_weights(3)
    mask = {name: torch.rand(w.shape, generator=torch.Generator().manual_seed(5)) > 0.5 for name, w in weights.items()}
    sensitivity = some_sensitivity(weights, 4)
    found = rank(wrapped(weights, mask), method, sensitivity=sensitivity, variation=cim.Gaussian(0.5))
    kept = torch.cat([part.flatten() for part in mask.values()])
    assert found.weights == int(kept.sum()) < kept.numel()
    assert set(found.order.tolist()) == set(kept.nonzero().flatten().tolist())
    if method == "swim":
        assert found.order.tolist() == reference(weights, sensitivity, 0.5, mask)


def test_random_is_a_permutation_of_its_seed():
    weights = wrapped(some_weights(0))
    first, again, other = (rank(weights, "random", seed=seed).order for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert sorted(first.tolist()) == list(range(26))


@pytest.mark.parametrize("factor", [2.0**-20, 8.0])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variation", [VARIATION, LevelGaussian(0.1, 4.0), VARIATION + cim.Gaussian(0.02)])
def test_rescaling_a_layer_changes_nothing(method, factor, variation):
    """w -> k w makes H -> H / k^2: the same network, so the same ranking (promise 7)."""
    weights = some_weights(7)
    sensitivity = some_sensitivity(weights, 8, levels=1000)
    before = rank(wrapped(weights), method, sensitivity=sensitivity, variation=variation).order
    scales = {"a": factor, "b": 1 / factor, "c": 1.0}
    after = rank(
        wrapped({name: w * scales[name] for name, w in weights.items()}),
        method,
        sensitivity={name: h / scales[name] ** 2 for name, h in sensitivity.items()},
        variation=variation,
    ).order
    assert torch.equal(before, after)


def test_the_layers_scale_counts():
    """The classic error: ranking by H alone."""
    weights = {"small": torch.tensor([[0.01, 0.02]]), "large": torch.tensor([[3.0, 4.0]])}
    sensitivity = {"small": torch.tensor([[4.0, 3.0]]), "large": torch.tensor([[2.0, 1.0]])}
    found = rank(wrapped(weights), sensitivity=sensitivity, variation=VARIATION)
    assert found.order.tolist() == [2, 3, 0, 1]


def test_level_dependent_variation_counts():
    """U-SWIM: of two equally sensitive weights the one on the noisier level comes first."""
    weights = {"w": torch.tensor([[0.1, 0.5, 1.0]])}
    sensitivity = {"w": torch.tensor([[1.0, 1.0, 1.0]])}
    assert rank(wrapped(weights), sensitivity=sensitivity, variation=VARIATION).order.tolist() == [2, 1, 0]
    level = LevelGaussian(0.1, ratio=4.0)
    assert rank(wrapped(weights), sensitivity=sensitivity, variation=level).order.tolist() == [1, 2, 0]


def test_masks_and_shares_of_the_first_weights():
    weights = {"a": torch.tensor([[1.0, -4.0], [2.0, 3.0]]), "b": torch.tensor([[0.5, 1.0]])}
    found = rank(wrapped(weights), "magnitude")
    assert found.weights == 6
    assert [found.count(f) for f in (0.0, 0.08, 0.09, 0.5, 1.0)] == [0, 0, 1, 3, 6]
    masks = found.masks(3)
    assert {name: mask.tolist() for name, mask in masks.items()} == {
        "a": [[False, True], [False, True]],
        "b": [[False, True]],
    }
    assert found.share(3) == {"a": 0.5, "b": 0.5}
    assert not any(mask.any() for mask in found.masks(0).values())
    assert all(mask.all() for mask in found.masks(6).values())
    assert found.in_order(weights).tolist() == [-4.0, 1.0, 3.0, 2.0, 0.5, 1.0]


def test_a_parameter_without_devices_has_no_share():
    weights = {"a": torch.ones(1, 2), "b": torch.ones(1, 2)}
    mask = {"a": torch.zeros(1, 2, dtype=torch.bool), "b": torch.ones(1, 2, dtype=torch.bool)}
    share = rank(wrapped(weights, mask), "magnitude").share(1)
    assert math.isnan(share["a"])
    assert share["b"] == 0.5


def test_a_layer_of_zeros_is_ranked_last():
    weights = {"zero": torch.zeros(1, 2), "w": torch.tensor([[0.5, 1.0]])}
    ones = {name: torch.ones_like(w) for name, w in weights.items()}
    for method in ("swim", "magnitude"):
        found = rank(wrapped(weights), method, sensitivity=ones, variation=VARIATION)
        assert found.order.tolist() == [3, 2, 0, 1]


@pytest.mark.slow
def test_more_weights_than_quantile_takes():
    weight = torch.randn(2**24 + 2, 1, generator=torch.Generator().manual_seed(0))
    found = rank({"w": DeviceWeights(weight)}, "magnitude")
    mask = found.masks(1000)["w"]
    assert mask.sum() == 1000
    assert weight[mask].abs().min() >= weight[~mask].abs().max()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "sensitivity"}, "method must be one of 'swim', 'magnitude', 'random', got 'sensitivity'"),
        ({"sensitivity": None}, "ranks by sensitivity and variation"),
        ({"sensitivity": {"a": torch.ones(3, 4)}}, "no values for b, c"),
        (
            {"sensitivity": {name: torch.ones(1, 1) for name in "abc"}},
            r"'a' has the shape \(1, 1\), its weight \(3, 4\)",
        ),
        (
            {"sensitivity": {name: w * float("nan") for name, w in some_weights(0).items()}},
            "sensitivity of 'a' has NaN",
        ),
    ],
)
def test_what_cannot_be_ranked_is_refused(options, message):
    weights = some_weights(0)
    sensitivity = some_sensitivity(weights, 1)
    with pytest.raises(ValueError, match=message):
        rank(wrapped(weights), **{"sensitivity": sensitivity, "variation": VARIATION, **options})


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_are_there_once():
    assert list(device_weights(Tied(), cim.Mapping())) == ["first.weight"]


def test_device_weights_are_what_the_chain_makes_of_the_weights():
    model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 2))
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(4, activation_bits=None)
    sparse.attach(None, model)
    sparse.make_transform().update(model)
    precise.attach(None, model)
    try:
        found = device_weights(model, cim.Mapping())
        stored = device_weights(model, cim.Mapping(pruned="stored"))
        exported = cim.export_state_dict(model)
    finally:
        precise.detach()
        sparse.detach()
    for name in ("0.weight", "1.weight"):
        assert torch.equal(found[name].value, exported[name])
        assert not torch.equal(found[name].value, model.state_dict()[name])
        assert torch.equal(found[name].exists, sparse.masks[name])
        assert stored[name].exists is None
    assert torch.equal(device_weights(model, cim.Mapping())["0.weight"].value, model[0].weight)


def test_a_model_on_a_chip_is_refused():
    model = nn.Linear(2, 2)
    with (
        cim.on_chip(model, cim.ChipPopulation(model, VARIATION)[0]),
        pytest.raises(ValueError, match="is on a chip already"),
    ):
        device_weights(model, cim.Mapping())
