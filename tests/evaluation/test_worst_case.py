"""The worst-case search: its bound (check E19), its arithmetic, what it leaves behind, and digits (check S8)."""

import copy
import pickle
import random
from functools import cache

import lightning as L
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_cim as cim
from lightning_cim.chip.criterion import CriterionCall
from lightning_cim.chip.scope import scope_of
from lightning_cim.chip.sparsity import Mask
from lightning_cim.evaluation.journal import read_rows
from lightning_cim.evaluation.logits import chip_logits
from lightning_cim.evaluation.margin import margins
from lightning_cim.evaluation.worst_case import worst_case
from lightning_cim.variation.uniform import Uniform
from tests.evaluation.toys import Classifier, Data, dataset
from tests.helpers.boring import FLAVOURS, data, make
from tests.helpers.digits import accuracy, digits, trained_digits

mpl.use("Agg")
FAST = {"progress": False}
METHODS = [
    {"method": "sign", "steps": 4},
    {"method": "sign", "steps": 1},
    # Adam's steps are half as large as the box, so that clipping is what keeps the chip inside.
    *({"method": "lagrange", "steps": 3, "rounds": 4, "lr": 0.5, "distance": name} for name in ("max", "l2", "linf")),
]


def cross_entropy_data(size=40, features=5, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, features, generator=generator)
    return TensorDataset(x, (x[:, :classes] + 0.3 * torch.randn(size, classes, generator=generator)).argmax(1))


def fitted(net, dataset, steps=60):
    x, y = dataset.tensors
    optimizer = torch.optim.Adam(net.parameters(), lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return fitted(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), cross_entropy_data())


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


def test_scores_are_those_of_the_chip_and_held_out_data_have_no_part_in_the_search(mlp):
    found_on, other = cross_entropy_data(), cross_entropy_data(seed=1)
    result = worst_case(mlp, found_on, 0.2, evaluate_on=other, **FAST)
    alone = worst_case(mlp, found_on, 0.2, **FAST)
    assert torch.equal(result.chip.deviations["0.weight"], alone.chip.deviations["0.weight"])
    assert result.history == alone.history
    assert alone.held_out is None
    assert alone.worst == alone.found_on.found
    for score, dataset_ in ((result.found_on, found_on), (result.held_out, other)):
        assert score.clean == pytest.approx(accuracy(mlp, dataset_))
        with cim.on_chip(mlp, result.chip):
            assert score.found == pytest.approx(accuracy(mlp, dataset_))
        assert score.count == 40
    assert (result.clean, result.worst) == (result.held_out.clean, result.held_out.found)
    assert result.found_on.found < result.found_on.clean


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


@pytest.mark.parametrize("options", METHODS[1:3], ids=("sign", "lagrange"))
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_module_and_random_state_are_given_back(flavour, options):
    """Also where a part of it is in eval mode, and what its step stores besides the loss (see no_traces)."""
    model = make(flavour)
    model.train()
    model.norm.eval()
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    result = worst_case(model, data(seed=3, shuffle=True), 0.1, **options, **FAST)
    assert result.found_on.found <= result.found_on.clean
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert random.getstate() == states[2]
    assert scope_of(model).chain == ()
    assert "training_step" not in model.__dict__


def test_batch_norm_and_dropout_are_in_eval_mode():
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    fitted(net, cross_entropy_data())
    result = worst_case(net, cross_entropy_data(), 0.01, **FAST)
    assert net.training
    assert result.clean == pytest.approx(accuracy(copy.deepcopy(net).eval(), cross_entropy_data()))


def test_frozen_weights_are_searched_also_where_nobody_records_gradients(mlp):
    expected = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    mlp.requires_grad_(False)
    with torch.no_grad():
        frozen = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    with torch.inference_mode():
        inferred = worst_case(mlp, cross_entropy_data(), 0.1, **FAST)
    assert frozen.history == inferred.history == expected.history


@pytest.mark.parametrize("options", METHODS[1:], ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("pruned", ["absent", "stored"])
def test_pruned_weights_without_a_device_do_not_deviate(mlp, options, pruned):
    mask = Mask((2, 4), 0.5)
    mask.update(mlp)
    scope_of(mlp).add(mask)
    try:
        mapping = cim.Mapping(pruned=pruned)
        result = worst_case(mlp, cross_entropy_data(), 0.2, mapping=mapping, **options, **FAST)
        weights = cim.chip_weights(mlp, result.chip)
    finally:
        scope_of(mlp).remove(mask)
    for name, kept in mask.masks.items():
        assert (weights[name][~kept] == 0).all() == (pruned == "absent")
        clean = mlp.get_parameter(name)[kept].detach()
        assert not torch.equal(weights[name][kept], clean)
        assert result.layers[name] <= 0.2 + 1e-7


def test_mapping_limits_the_search(mlp):
    result = worst_case(mlp, cross_entropy_data(), 0.1, mapping=cim.Mapping(exclude=["0"]), **FAST)
    assert list(result.layers) == list(result.chip.deviations) == ["2.weight"]


def test_tied_weights_deviate_alike():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 5)
            self.b.weight = self.a.weight

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model = fitted(Tied(), cross_entropy_data())
    result = worst_case(model, cross_entropy_data(), 0.1, **FAST)
    with cim.on_chip(model, result.chip):
        assert model.a.weight is model.b.weight
    assert list(result.layers) == ["a.weight"]


class Last(nn.Module):
    """Classifies by the last output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.recurrent, self.head = layer(1, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.recurrent(x.unsqueeze(2))[0][:, -1])


@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_recurrent_networks(layer):
    torch.manual_seed(0)
    model = fitted(Last(layer), cross_entropy_data())
    result = worst_case(model, cross_entropy_data(), 0.3, **FAST)
    assert min(result.layers.values()) > 0
    assert result.worst < result.clean


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layer", [nn.GRU, nn.LSTM])
def test_recurrent_networks_on_a_gpu(layer):
    """cuDNN has no backward in eval mode; the chip itself lies on the CPU and works on both."""
    torch.manual_seed(0)
    model = fitted(Last(layer), cross_entropy_data()).cuda()
    result = worst_case(model, cross_entropy_data(), 0.3, **FAST)
    with cim.on_chip(model.cpu(), result.chip):
        assert result.worst == pytest.approx(accuracy(model, cross_entropy_data()), abs=1 / 40)


def test_regression_is_scored_by_its_loss():
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    y = x.sum(1, keepdim=True)
    model = nn.Linear(4, 1)
    model.weight.data.fill_(1.0)
    model.bias.data.fill_(0.1)
    result = worst_case(model, DataLoader(TensorDataset(x, y), 8), 0.1, **FAST)
    assert result.metric == "loss"
    assert result.clean == pytest.approx(0.01, rel=1e-4)
    with cim.on_chip(model, result.chip), torch.no_grad():
        assert result.worst == pytest.approx(nn.functional.mse_loss(model(x), y).item(), rel=1e-4)
    assert result.worst > 0.02


def test_labels_with_a_binary_criterion():
    class MultiLabel(nn.Linear):
        def cim_logits_and_target(self, batch):
            return self(batch[0]), batch[1], nn.functional.binary_cross_entropy_with_logits

    torch.manual_seed(0)
    model, x = MultiLabel(6, 3, bias=False), torch.randn(50, 6)
    y = (model(x) > 0).float().detach()
    result = worst_case(model, [(x[:25], y[:25])], 0.2, evaluate_on=[(x[25:], y[25:])], **FAST)
    assert (result.clean, result.held_out.count) == (1.0, 75)
    with cim.on_chip(model, result.chip), torch.no_grad():
        assert result.worst == pytest.approx(((model(x[25:]) > 0) == (y[25:] > 0.5)).float().mean().item())
    assert result.worst < 0.95


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


def test_max_batches_limits_the_search_only(mlp):
    loader = DataLoader(cross_entropy_data(), 10)
    result = worst_case(mlp, loader, 0.1, evaluate_on=loader.dataset, max_batches=2, **FAST)
    assert (result.found_on.count, result.held_out.count) == (20, 40)


def test_datamodules_give_training_and_test_data():
    result = worst_case(Classifier(), Data(), 0.2, **FAST)
    by_hand = worst_case(Classifier(), dataset(), 0.2, evaluate_on=dataset(), **FAST)
    assert result.held_out.count == 48
    assert result.found_on.found == pytest.approx(by_hand.found_on.found)


def test_datamodules_without_test_or_training_data():
    class TrainOnly(Data):
        test_dataloader = L.LightningDataModule.test_dataloader

    class TestOnly(Data):
        train_dataloader = L.LightningDataModule.train_dataloader

    assert worst_case(Classifier(), TrainOnly(), 0.2, steps=1, **FAST).held_out is None
    assert worst_case(Classifier(), dataset(), 0.2, steps=1, evaluate_on=TestOnly(), **FAST).held_out.count == 48
    with pytest.raises(ValueError, match="a data set, got NoneType"):
        worst_case(Classifier(), TestOnly(), 0.2, **FAST)


def test_table_csv_plot_and_pickle(mlp, tmp_path):
    result = worst_case(mlp, cross_entropy_data(), 0.1, evaluate_on=cross_entropy_data(seed=1), steps=3, **FAST)
    text = str(result)
    for part in ("held-out data", "data it was found on", f"{result.worst:.4f}", "0.weight", "bound 0.1, sign search"):
        assert part in text
    alone = worst_case(mlp, cross_entropy_data(), 0.1, steps=3, **FAST)
    assert "found and scored on the same data" in str(alone)
    assert "held-out" not in str(alone)
    result.to_csv(tmp_path / "worst.csv")
    about, rows = read_rows(tmp_path / "worst.csv")
    assert about["held out"]["found"] == result.worst
    assert about["layers"] == result.layers
    assert [rows[step]["score"] for step in range(4)] == [attempt.score for attempt in result.history]
    random_chips = np.linspace(0.8, 0.9, 5)
    figure, axes = result.plot(random=random_chips)
    assert len(axes.lines) == 3
    assert list(axes.lines[2].get_ydata()) == list(random_chips)
    assert axes.lines[0].get_xdata()[-1] == pytest.approx(10.0)
    mpl.pyplot.close(figure)
    again = pickle.loads(pickle.dumps(result))
    assert again.held_out == result.held_out
    assert torch.equal(again.chip.deviations["0.weight"], result.chip.deviations["0.weight"])


def test_found_chip_is_one_of_its_own_and_refuses_other_networks(mlp):
    chip = worst_case(mlp, cross_entropy_data(), 0.1, steps=2, **FAST).chip
    assert chip != copy.copy(chip)
    assert len({chip, copy.copy(chip)}) == 2
    weight = mlp[0].weight
    assert torch.allclose(weight + chip.deviation("0.weight", weight), cim.chip_weights(mlp, chip)["0.weight"])
    with (
        pytest.raises(ValueError, match=r"has none for parameter 'weight' of shape \(3, 5\)"),
        cim.on_chip(nn.Linear(5, 3), chip),
    ):
        pass
    other = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"those of shape \(16, 5\) for parameter '0.weight' of shape \(4, 5\)"):
        cim.chip_weights(other, chip)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": 0.0}, "bound is the largest .* finite number > 0, got 0.0"),
        ({"bound": float("nan")}, "finite number > 0, got nan"),
        ({"method": "random"}, "method must be 'sign' or 'lagrange', got 'random'"),
        ({"distance": "l1"}, "distance must be one of 'max', 'l2', 'linf', got 'l1'"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"rounds": 0}, "rounds must be at least 1, got 0"),
        ({"lr": 0.0}, "got lr=0.0"),
        ({"kappa": -1.0}, "kappa=-1.0"),
        ({"max_batches": 0}, "max_batches must be at least 1, got 0"),
        ({"mapping": cim.Mapping(targets=["conv"])}, "maps no parameter"),
        ({"data": []}, "no batch with a prediction"),
        ({"data": 5}, "must be a loader, an iterable of batches or a data set, got int"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        worst_case(**{"model": nn.Linear(5, 3), "data": cross_entropy_data(), "bound": 0.1, **FAST, **options})


def test_weights_that_no_gradient_reaches():
    class Detached(nn.Module):
        def __init__(self, both):
            super().__init__()
            self.first, self.second, self.both = nn.Linear(5, 5), nn.Linear(5, 3), both

        def forward(self, x):
            found = self.second(self.first(x).detach())
            return found.detach() if self.both else found

    with pytest.raises(ValueError, match=r"no gradient reaches first\.weight, second\.weight of Detached"):
        worst_case(Detached(True), cross_entropy_data(), 0.1, **FAST)
    with pytest.warns(UserWarning, match=r"no gradient reaches first\.weight of Detached") as caught:
        result = worst_case(Detached(False), cross_entropy_data(), 0.1, **FAST)
    assert len(caught) == 1
    assert result.layers["first.weight"] == 0.0
    assert result.layers["second.weight"] > 0.0


def test_weights_and_gradients_that_are_not_finite_are_refused(mlp):
    broken = copy.deepcopy(mlp)
    broken[0].weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter '0\.weight' has 1 NaN"):
        worst_case(broken, cross_entropy_data(), 0.1, **FAST)
    x, y = cross_entropy_data().tensors
    with pytest.raises(ValueError, match="is NaN or infinite; the network overflows"):
        worst_case(mlp, [(x * float("inf"), y)], 0.1, **FAST)


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
