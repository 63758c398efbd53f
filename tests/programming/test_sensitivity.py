"""``sensitivity``: its methods against exact matrices, its choice among them, and what it leaves behind."""

import logging

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lightning_cim.chip import ChipPopulation, Mapping, on_chip
from lightning_cim.programming.sensitivity import sensitivity
from lightning_cim.variation import Gaussian
from tests.helpers.boring import FLAVOURS, data, make
from tests.helpers.digits import digits, digits_cnn, digits_mlp, trained_digits
from tests.programming.references import Recurrent, cross_entropy_of, gauss_newton_diagonal, hessian_diagonal, spearman


def batches(x, y, size):
    return DataLoader(TensorDataset(x, y), batch_size=size)


def gelu_mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()


def some_data(count=40, features=4, classes=3):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, features, generator=generator, dtype=torch.float64)
    return x, torch.randint(0, classes, (count,), generator=generator)


class Transformer(nn.Module):
    """Attention, LayerNorm and GELU over the rows of an image."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, activation="gelu", batch_first=True)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.block(self.embed(x.squeeze(1))).mean(1))


@pytest.mark.parametrize("size", [1, 7, 64])
def test_batches_of_any_size_give_the_same_result(size):
    net = trained_digits(epochs=2)
    x, y = (part[:64] for part in digits()[0].tensors)
    whole, split = sensitivity(net, [(x, y)]), sensitivity(net, batches(x, y, size))
    assert split.method == whole.method == "recursion"
    assert split.samples == whole.samples == 64
    for name, value in whole.values.items():
        torch.testing.assert_close(split.values[name], value, rtol=1e-4, atol=1e-3 * float(value.mean()))


def test_values_are_keyed_and_shaped_as_the_mapped_parameters():
    net = digits_cnn()
    found = sensitivity(net, [digits()[0][:8]])
    parameters = dict(net.named_parameters())
    assert list(found.values) == ["0.weight", "3.weight", "7.weight", "12.weight", "14.weight"]
    for name, value in found.values.items():
        assert value.shape == parameters[name].shape
        assert value.dtype == torch.float32
        assert not value.requires_grad
        assert value.min() >= 0
        assert value.max() > 0
    assert list(sensitivity(net, [digits()[0][:8]], mapping=Mapping(exclude=["0"])).values) == list(found.values)[1:]


def exact_diagonal_of_digits(net, x, y):
    """The Hessian's diagonal of every weight of a digits MLP, a column at a time by double backward."""
    weights = [net[1].weight, net[3].weight]
    gradients = torch.autograd.grad(F.cross_entropy(net(x), y), weights, create_graph=True)
    columns = []
    for weight, gradient in zip(weights, gradients, strict=True):
        flat = gradient.flatten()
        eye = torch.eye(flat.numel())
        (full,) = torch.autograd.grad(flat, weight, eye, is_grads_batched=True, retain_graph=True)
        columns.append(full.flatten(1).diagonal())
    return torch.cat(columns)


# E15
@pytest.mark.parametrize("method", ["recursion", "gauss_newton"])
def test_rank_correlation_with_the_exact_diagonal_on_digits(method):
    net = trained_digits(net=digits_mlp)
    x, y = (part[:300] for part in digits()[0].tensors)
    found = torch.cat([value.flatten() for value in sensitivity(net, batches(x, y, 50), method).values.values()])
    exact = exact_diagonal_of_digits(net, x, y)
    used = exact != 0  # pixels that are black in every image
    assert used.sum() > 1000
    assert spearman(found[used], exact[used]) >= 0.9  # E15 asks for 0.6
    magnitude = torch.cat([net[1].weight.flatten(), net[3].weight.flatten()]).abs()
    assert spearman(magnitude[used], exact[used]) < 0.5  # what the bar would be worth if anything passed it


def test_gauss_newton_is_unbiased_for_any_network():
    net, (x, y) = gelu_mlp(), some_data()
    exact = gauss_newton_diagonal(net, ["0.weight", "2.weight"], x)
    found = sensitivity(net, batches(x, y, 8), "gauss_newton", probes=2000)
    assert (found.method, found.samples) == ("gauss_newton", 40)
    for name, value in exact.items():
        # 5 batches x 2000 probes: a standard error of at most sqrt(2 / 10000) = 1.4 % of each value
        torch.testing.assert_close(found.values[name], value, rtol=0.07, atol=0)
        assert abs(float(found.values[name].sum() / value.sum()) - 1) < 0.02


@pytest.mark.parametrize("criterion", ["mse", "binary", "nll", "smoothing"])
def test_gauss_newton_is_the_hessian_of_a_linear_model(criterion):
    x, y = some_data()
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    loss = {
        "mse": lambda o: F.mse_loss(o, F.one_hot(y, 3).double()),
        "binary": lambda o: F.binary_cross_entropy_with_logits(o, F.one_hot(y, 3).double()),
        "nll": lambda o: F.nll_loss(F.log_softmax(o, 1), y, weight=torch.tensor([1.0, 2, 3]).double()),
        "smoothing": lambda o: F.cross_entropy(o, y, label_smoothing=0.2),
    }[criterion]
    net.training_step = lambda batch, batch_idx: loss(net(batch))
    found = sensitivity(net, [x], "gauss_newton", probes=4000).values["weight"]
    exact = hessian_diagonal(net, ["weight"], lambda f: loss(f(x)))["weight"]
    torch.testing.assert_close(found, exact, rtol=0.12, atol=0)  # sqrt(2 / 4000) = 2.2 %


def test_hutchinson_is_the_hessian_where_it_is_positive():
    net, (x, y) = gelu_mlp(), some_data()
    exact = hessian_diagonal(net, ["0.weight", "2.weight"], cross_entropy_of(x, y))
    found = sensitivity(net, batches(x, y, 10), "hutchinson", probes=1000)
    assert (found.method, found.samples) == ("hutchinson", 40)
    names = list(exact)
    full = hessian(lambda *w: F.cross_entropy(functional_call(net, dict(zip(names, w, strict=True)), (x,)), y), (0, 1))(
        *[net.get_parameter(name).detach() for name in names]
    )
    # the variance of one probe is the sum of the squared off-diagonal entries of the row
    spread = [
        sum(full[i][j].reshape(exact[a].numel(), -1).square().sum(1) for j in (0, 1)).reshape(exact[a].shape)
        - exact[a] ** 2
        for i, a in enumerate(names)
    ]
    assert any((value < 0).any() for value in exact.values())
    for name, variance in zip(names, spread, strict=True):
        error = (found.values[name] - exact[name].clamp(min=0)).abs() / (variance / 1000).sqrt()
        assert error.max() < 6
        assert (found.values[name] >= 0).all()


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("method", ["recursion", "gauss_newton", "hutchinson"])
def test_a_lightning_module_gives_the_same_as_the_plain_network(flavour, method):
    module = make(flavour)
    found = sensitivity(module, data(), method, probes=3)
    plain = nn.Sequential(module.conv, module.norm, nn.ReLU(), module.dropout, nn.Flatten(), module.linear)
    expected = sensitivity(plain, data(), method, probes=3)
    assert list(found.values) == ["conv.weight", "linear.weight"]
    for value, same in zip(found.values.values(), expected.values.values(), strict=True):
        torch.testing.assert_close(value, same)
    assert module.losses == []


def test_loss_module_in_an_unchanged_training_step():
    import lightning as L

    class Classifier(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net, self.criterion = digits_cnn(), nn.CrossEntropyLoss(label_smoothing=0.1)

        def training_step(self, batch, batch_idx):
            x, y = batch
            logits = self.net(x)
            loss = self.criterion(logits, y)
            self.log("train/loss", loss)
            return loss

    torch.manual_seed(0)
    module = Classifier()
    x, y = (part[:20] for part in digits()[0].tensors)
    plain = module.net.eval()
    weight = plain[14].weight
    exact = hessian_diagonal(plain, ["14.weight"], lambda f: F.cross_entropy(f(x), y, label_smoothing=0.1))
    found = sensitivity(module, [(x, y)]).values["net.14.weight"]
    torch.testing.assert_close(found, exact["14.weight"], rtol=1e-4, atol=1e-9)
    assert plain[14].weight is weight


@pytest.mark.parametrize("net", [Transformer, Recurrent])
def test_networks_without_rules_fall_back_with_one_line(net, caplog):
    torch.manual_seed(0)
    net = net()
    x, y = (part[:32] for part in digits()[0].tensors)
    with caplog.at_level(logging.INFO, "lightning_cim"):
        found = sensitivity(net, batches(x, y, 8), probes=4)
    assert found.method == "gauss_newton"
    assert len(caplog.records) == 1
    named = ["layer_norm", "gelu", "attention"] if isinstance(net, Transformer) else ["rnn|lstm|tanh"]
    for name in named:
        assert any(part in caplog.text for part in name.split("|")), f"{name} is not named in {caplog.text}"
    assert all(value.max() > 0 for value in found.values.values())
    curved = sensitivity(net, batches(x, y, 8), "hutchinson", probes=4)
    assert all(value.max() > 0 for value in curved.values.values())
    assert all(value.isfinite().all() for value in curved.values.values())


def test_criteria_without_a_rule_fall_back_to_hutchinson(caplog):
    x = some_data()[0]
    net = gelu_mlp()
    net.training_step = lambda batch, batch_idx: F.huber_loss(net(batch), torch.zeros(40, 3).double())
    found = sensitivity(net, [x], probes=2)
    assert found.method == "hutchinson"
    assert "huber_loss" in caplog.text


def test_a_loss_without_curvature_is_reported(caplog):
    x = some_data()[0]
    torch.manual_seed(0)
    net = nn.Linear(4, 3).double()
    net.training_step = lambda batch, batch_idx: F.l1_loss(net(batch), torch.zeros(40, 3).double())
    assert not sensitivity(net, [x], probes=1).values["weight"].any()
    assert "does not depend on weight, to second order" in caplog.text


def test_a_target_that_depends_on_the_weights_is_left_to_hutchinson():
    x = some_data()[0]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 4)).double()
    net.training_step = lambda batch, batch_idx: F.mse_loss(net(batch), net[0](batch) @ torch.ones(3, 4).double())
    assert sensitivity(net, [x], probes=1).method == "hutchinson"
    for method in ("recursion", "gauss_newton"):
        with pytest.raises(ValueError, match="method"):
            sensitivity(net, [x], method)


@pytest.mark.parametrize("method", ["gauss_newton", "hutchinson"])
def test_random_probes_follow_the_seed(method):
    net, (x, y) = gelu_mlp(), some_data()

    def values(seed, state):
        torch.manual_seed(state)
        return sensitivity(net, batches(x, y, 8), method, probes=2, seed=seed).values["0.weight"]

    assert torch.equal(values(0, 1), values(0, 2))
    assert not torch.equal(values(0, 1), values(1, 1))


def test_a_shuffling_loader_follows_the_seed():
    net, (x, y) = gelu_mlp(), some_data()
    loader = DataLoader(TensorDataset(x, y), batch_size=8, shuffle=True)

    def values(seed):
        return sensitivity(net, loader, "gauss_newton", max_batches=2, seed=seed).values["0.weight"]

    first = values(0)
    torch.manual_seed(123)
    assert torch.equal(values(0), first)
    assert not torch.equal(values(1), first)


def test_max_batches():
    net, (x, y) = gelu_mlp(), some_data()
    some = sensitivity(net, batches(x, y, 8), "gauss_newton", max_batches=2)
    assert some.samples == 16
    assert torch.equal(
        some.values["0.weight"],
        sensitivity(net, [(x[:8], y[:8]), (x[8:16], y[8:16])], "gauss_newton").values["0.weight"],
    )


def test_weights_that_the_loss_does_not_use_are_reported(caplog):
    net = nn.ModuleDict({"used": nn.Linear(4, 3), "spare": nn.Linear(4, 3)}).double()
    net.cim_logits_and_target = lambda batch: (net["used"](batch[0]), batch[1])
    found = sensitivity(net, [some_data()]).values
    assert not found["spare.weight"].any()
    assert found["used.weight"].any()
    assert "does not depend on spare.weight" in caplog.text


def test_bad_input():
    net, (x, y) = gelu_mlp(), some_data()
    with pytest.raises(ValueError, match=r"method must be one of 'auto', 'recursion', .* got 'fisher'"):
        sensitivity(net, [(x, y)], "fisher")
    with pytest.raises(ValueError, match="data gave no batch"):
        sensitivity(net, [])
    for name in ("max_batches", "probes"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            sensitivity(net, [(x, y)], **{name: 0})
    with pytest.raises(ValueError, match="exclude names 'encoder'"):
        sensitivity(net, [(x, y)], mapping=Mapping(exclude=["encoder"]))
    with pytest.raises(ValueError, match="every target is ignored"):
        sensitivity(net, [(x, torch.full((40,), -100))])
    with on_chip(net, ChipPopulation(net, Gaussian(0.1))[0]), pytest.raises(ValueError, match="is on a chip"):
        sensitivity(net, [(x, y)])
    with pytest.raises(ValueError, match="second derivatives of 'weight' are not finite"):
        sensitivity(nn.Linear(4, 3).double(), [(x * 1e200, torch.zeros(40, 3).double())])
    with torch.no_grad():
        net[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"'0.weight' has 1 NaN"):
        sensitivity(net, [(x, y)])
