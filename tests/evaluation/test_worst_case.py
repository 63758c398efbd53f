"""The worst-case search: its bound (check E19), its arithmetic and cost, and digits (check S8)."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from lightning_cim.chip.criterion import CriterionCall
from lightning_cim.evaluation.logits import chip_logits
from lightning_cim.evaluation.margin import margins
from lightning_cim.evaluation.worst_case import worst_case
from lightning_cim.variation.uniform import Uniform
from tests.evaluation.worst_case_toys import FAST, METHODS, cross_entropy_data, fitted
from tests.helpers.digits import digits, trained_digits


def stored(model, chip):
    """Relative deviations that the chip's devices really have, by layer."""
    clean = dict(model.named_parameters())
    return {
        name: ((value.double() - clean[name].double()) / clean[name].double().abs().max()).detach()
        for name, value in cim.chip_weights(model, chip).items()
    }


@pytest.mark.parametrize("options", METHODS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("bound", [0.003, 0.03, 0.5])
def test_e19_no_weight_leaves_the_box(mlp, options, bound):
    result = worst_case(mlp, cross_entropy_data(), bound, **options, **FAST)
    found = stored(mlp, result.chip)
    assert set(found) == set(result.layers) == {"0.weight", "2.weight"}
    for name, values in found.items():
        assert values.abs().max() <= bound + 1e-7
        assert result.layers[name] == pytest.approx(values.abs().max().item(), abs=1e-9)
        assert values.min() < 0 < values.max()  # both signs are used
    assert max(attempt.largest for attempt in result.history) <= bound + 1e-7


@given(bound=st.floats(1e-3, 1.0), seed=st.integers(0, 1000), scale=st.floats(1e-3, 1e3), steps=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_e19_for_any_weights(bound, seed, scale, steps):
    torch.manual_seed(seed)
    model = nn.Linear(5, 3)
    model.weight.data *= scale
    for options in ({"method": "sign", "steps": steps}, {"method": "lagrange", "steps": 1, "rounds": steps}):
        result = worst_case(model, cross_entropy_data(), bound, **options, **FAST)
        assert stored(model, result.chip)["weight"].abs().max() <= bound + 1e-7


def test_linear_network_with_two_classes_in_closed_form():
    """While all margins are positive, they are linear in dW: the worst dW is along the difference of class sums."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(20, 4) + 4, torch.randn(20, 4) - 4])
    y = torch.arange(40) // 20
    model = nn.Linear(4, 2)
    model.weight.data = torch.tensor([[1.0, 1.1, 0.9, 1.2], [-1.0, -0.8, -1.1, -0.9]])
    model.bias.data.zero_()
    difference = x[y == 0].sum(0) - x[y == 1].sum(0)
    expected = 0.05 * torch.stack([-difference.sign(), difference.sign()])
    result = worst_case(model, TensorDataset(x, y), 0.05, **FAST)
    assert torch.allclose(result.chip.deviations["weight"], expected, atol=1e-7)
    first, last = result.history[0].objective, result.history[-1].objective
    # two rows, each moved by 0.05 * max|W| = 0.06 against its sum of differences
    assert first - last == pytest.approx(2 * 0.06 * difference.abs().sum().item(), rel=1e-5)


def slow_sign_search(weight, bias, x, y, bound, steps):
    """The sign search on a linear network in numpy: margins, clamp and sums one sample at a time."""
    scale = np.abs(weight).max()
    u = np.zeros_like(weight)
    points = []
    for _ in range(steps + 1):
        logits = x @ (weight + u * scale).T + bias
        total, right, gradient = 0.0, 0, np.zeros_like(weight)
        for row, z, own in zip(x, logits, y, strict=True):
            other = max((j for j in range(len(z)) if j != own), key=lambda j, z=z: z[j])
            total += max(z[own] - z[other], 0.0)
            right += int(z.argmax() == own)
            if z[own] - z[other] > 0:
                gradient[own] += row
                gradient[other] -= row
        points.append((right / len(x), total, u.copy()))
        u = np.clip(u - bound / steps * np.sign(gradient), -bound, bound)
    return points


@pytest.mark.parametrize("bound", [0.1, 0.6])
def test_sign_search_equals_a_slow_one(bound):
    data, model = cross_entropy_data(), nn.Linear(5, 3).double()
    fitted(model, TensorDataset(data.tensors[0].double(), data.tensors[1]))
    x, y = data.tensors[0].double(), data.tensors[1]
    weight, bias = model.weight.detach().numpy(), model.bias.detach().numpy()
    expected = slow_sign_search(weight, bias, x.numpy(), y.numpy(), bound, steps=6)
    loader = DataLoader(TensorDataset(x, y), batch_size=7)
    result = worst_case(model, loader, bound, steps=6, **FAST)
    for attempt, (score, objective, u) in zip(result.history, expected, strict=True):
        assert attempt.score == pytest.approx(score)
        assert attempt.objective == pytest.approx(objective, rel=1e-5)
        assert attempt.largest == pytest.approx(np.abs(u).max(), abs=1e-7)
    worst = min(expected, key=lambda point: point[:2])
    assert result.chip.deviations["weight"].numpy() == pytest.approx(worst[2], abs=1e-6)
    assert result.found_on.found == pytest.approx(worst[0])


def test_margins_of_every_kind_of_classifier():
    torch.manual_seed(0)
    logits, target = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    target[0, 0, :2] = 255
    call = CriterionCall(nn.functional.cross_entropy, logits, target, {"ignore_index": 255})
    expected = []
    for n, i, j in np.ndindex(2, 4, 5):
        if target[n, i, j] != 255:
            z, own = logits[n, :, i, j].tolist(), int(target[n, i, j])
            expected.append(z.pop(own) - max(z))
    assert margins(call).tolist() == pytest.approx(expected)
    assert torch.equal(margins(call) > 0, call.hits())
    labels = torch.tensor([[1.0, 0.0, 1.0]])
    call = CriterionCall(nn.functional.binary_cross_entropy_with_logits, torch.tensor([[2.0, 3.0, -1.0]]), labels)
    assert margins(call).tolist() == [2.0, -3.0, -1.0]
    mixed = CriterionCall(nn.functional.cross_entropy, torch.tensor([[2.0, 0.5]]), torch.tensor([[0.1, 0.9]]))
    assert margins(mixed).tolist() == [-1.5]


def test_result_is_independent_of_batch_size_and_random_state(mlp):
    results = []
    for batch_size, seed in ((40, 0), (7, 1), (7, 1)):
        torch.manual_seed(seed)
        results.append(worst_case(mlp, DataLoader(cross_entropy_data(), batch_size), 0.1, **FAST))
    for other in results[1:]:
        assert other.found_on == results[0].found_on
        assert torch.equal(other.chip.deviations["2.weight"], results[0].chip.deviations["2.weight"])


def test_a_step_that_draws_numbers_draws_the_same_ones_at_every_pass(mlp):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp

        def cim_logits_and_target(self, batch):
            return self.net(batch[0] + torch.randn_like(batch[0])), batch[1]

    results = []
    for seed in range(2):
        torch.manual_seed(seed)
        results.append(worst_case(Noisy(), cross_entropy_data(), 0.1, steps=2, **FAST))
    assert results[0].history == results[1].history
    assert results[0].found_on.clean == results[0].history[0].score


def test_rescaling_layers_changes_nothing(mlp):
    """Promise 7: one layer up, the next down."""
    scaled = copy.deepcopy(mlp)
    for parameter in scaled[0].parameters():
        parameter.data *= 4
    scaled[2].weight.data /= 4
    first, second = (worst_case(model, cross_entropy_data(), 0.1, **FAST) for model in (mlp, scaled))
    assert first.history == second.history
    assert torch.equal(first.chip.deviations["0.weight"], second.chip.deviations["0.weight"])


@pytest.mark.parametrize(
    ("options", "most"), [({"steps": 7}, 7 + 1), ({"method": "lagrange", "steps": 2, "rounds": 5}, 5 * (2 + 1) + 1)]
)
def test_costs_what_the_documentation_says(mlp, options, most):
    passes = []
    mlp.register_forward_hook(lambda *_: passes.append(None))
    worst_case(mlp, cross_entropy_data(), 0.02, **options, **FAST)
    assert len(passes) <= most + 2  # and two to score both chips
    assert len(passes) >= most / 2


def test_search_stops_where_everything_is_wrong():
    model = nn.Linear(5, 3)
    x, _ = cross_entropy_data().tensors
    wrong = model(x).argmin(1)
    result = worst_case(model, [(x, wrong)], 0.1, **FAST)
    assert (result.clean, len(result.history)) == (0.0, 1)
    deeper = worst_case(model, [(x, wrong)], 0.1, kappa=100.0, **FAST)
    assert len(deeper.history) == 11


@cache
def lowest_of_random_chips(seed):
    logits, target = chip_logits(trained_digits(seed=seed), digits()[2], Uniform(0.03), chips=100)
    return (logits.argmax(-1) == target).float().mean(1).min().item()


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("sign", 10), ("lagrange", 3)])
def test_s8_the_search_finds_what_random_chips_do_not(method, steps):
    """Digits, bound 0.03, found on training data, scored on test data: <= 50 % where 100 random chips keep 90 %."""
    train, _, test = digits()
    found, lowest = [], []
    for seed in range(3):
        loader = DataLoader(train, batch_size=128)
        result = worst_case(trained_digits(seed=seed), loader, 0.03, method, steps=steps, evaluate_on=test, **FAST)
        assert all(value <= 0.03 + 1e-7 for value in result.layers.values())
        found.append(result.worst)
        lowest.append(lowest_of_random_chips(seed))
    print(method, "worst", found, "lowest of 100 random chips", lowest)
    assert np.median(found) <= 0.5
    assert np.median(lowest) >= 0.9
