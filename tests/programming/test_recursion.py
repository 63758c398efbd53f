"""The second-derivative recursion against full Hessians where it is exact, and full squared Jacobians elsewhere."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from lightning_cim.chip.mapping import Mapping
from lightning_cim.programming.recursion import NoRuleError
from lightning_cim.programming.sensitivity import sensitivity
from tests.programming.references import (
    Through,
    assert_close,
    built,
    cross_entropy_h,
    cross_entropy_of,
    hessian_diagonal,
    inputs,
    labels,
    squared_error_h,
    squared_jacobian_recursion,
)


class Custom(nn.Module):
    """A network around a function of its parts and the input."""

    def __init__(self, function, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.function(self, x)


# E13
@pytest.mark.parametrize("bias", [True, False])
def test_softmax_regression_is_the_hessian(bias):
    net, x, y = built(nn.Linear(5, 3, bias=bias)), inputs(20, 5), labels(20)
    found = sensitivity(net, [(x, y)], "recursion")
    assert found.samples == 20
    assert_close(found.values, hessian_diagonal(net, ["0.weight"], cross_entropy_of(x, y)))


def test_last_layer_of_a_network_is_the_hessian():
    net, x, y = built(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)), inputs(20, 5), labels(20)
    found = sensitivity(net, [(x, y)], "recursion").values
    exact = hessian_diagonal(net, ["0.weight", "2.weight"], cross_entropy_of(x, y))
    torch.testing.assert_close(found["2.weight"], exact["2.weight"], rtol=1e-5, atol=0)
    assert not torch.allclose(found["0.weight"], exact["0.weight"], rtol=0.01)  # cross terms are left out there


# E14
def test_deep_linear_chain_of_width_one_is_the_hessian():
    net = built(*[nn.Linear(1, 1) for _ in range(4)])
    x, y = inputs(1, 1), inputs(1, 1, seed=3)
    exact = hessian_diagonal(net, [f"{i}.weight" for i in range(4)], lambda f: F.mse_loss(f(x), y))
    assert_close(sensitivity(net, [(x, y)], "recursion").values, exact)


CRITERIA = {
    "cross entropy": lambda o: (F.cross_entropy, labels(12, classes=4), {}),
    "class weights": lambda o: (
        F.cross_entropy,
        labels(12, classes=4),
        {"weight": torch.tensor([1.0, 0.2, 3, 0]).double()},
    ),
    "ignored": lambda o: (F.cross_entropy, labels(12, classes=4), {"ignore_index": 2}),
    "ignored by default": lambda o: (F.cross_entropy, labels(12, classes=4).where(labels(12) > 0, -100), {}),
    "smoothing": lambda o: (F.cross_entropy, labels(12, classes=4), {"label_smoothing": 0.2}),
    "all of them": lambda o: (
        F.cross_entropy,
        labels(12, classes=4),
        {"weight": torch.tensor([1.0, 0.2, 3, 2]).double(), "label_smoothing": 0.3, "ignore_index": 1},
    ),
    "soft targets": lambda o: (F.cross_entropy, inputs(12, 4).softmax(1), {}),
    "soft, weights": lambda o: (
        F.cross_entropy,
        inputs(12, 4).softmax(1) * 0.7,
        {"weight": torch.tensor([1.0, 0.2, 3, 2]).double(), "label_smoothing": 0.3},
    ),
    "mean squared error": lambda o: (F.mse_loss, inputs(12, 4), {}),
    "binary": lambda o: (F.binary_cross_entropy_with_logits, inputs(12, 4).sigmoid(), {}),
    "binary, weights": lambda o: (
        F.binary_cross_entropy_with_logits,
        labels(12, 4, classes=2).double(),
        {"pos_weight": torch.tensor([1.0, 0.2, 3, 2]).double(), "weight": torch.tensor([1.0, 2, 1, 0.5]).double()},
    ),
}


class Offers(nn.Module):
    """A linear model with any criterion, by way of ``cim_logits_and_target``."""

    def __init__(self, function, arguments, layer=None):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 4).double() if layer is None else layer
        self.criterion = lambda o, y: function(o, y, **arguments)
        self.function, self.arguments = function, arguments

    def forward(self, x):
        return self.layer(x)

    def training_step(self, batch, batch_idx):
        return self.function(self(batch[0]), batch[1], **self.arguments)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("criterion", CRITERIA)
def test_every_criterion_is_the_hessian_of_a_linear_model(criterion, reduction):
    function, y, arguments = CRITERIA[criterion](None)
    net, x = Offers(function, {**arguments, "reduction": reduction}), inputs(12, 5)
    scale = 1 if reduction == "mean" else len(x)
    exact = hessian_diagonal(net, ["layer.weight"], lambda f: function(f(x), y, **net.arguments) / scale)
    assert_close(sensitivity(net, [(x, y)], "recursion").values, exact)
    split = [(x[:1], y[:1]), (x[1:8], y[1:8]), (x[8:], y[8:])]  # the loss of all data, however batches cut it
    assert_close(sensitivity(net, split, "recursion").values, exact)


def test_spatial_targets_are_the_hessian_of_a_convolution():
    net = Offers(F.cross_entropy, {"ignore_index": 1}, built(nn.Conv2d(2, 3, 2)))
    x, y = inputs(2, 2, 4, 4), labels(2, 3, 3)
    exact = hessian_diagonal(net, ["layer.0.weight"], lambda f: F.cross_entropy(f(x), y, ignore_index=1))
    assert_close(sensitivity(net, [(x, y)], "recursion").values, exact)


def test_loss_modules_offered_and_log_likelihoods_are_cross_entropies():
    x, y = inputs(12, 5), labels(12, classes=4)
    net = Offers(F.cross_entropy, {"label_smoothing": 0.1})
    expected = sensitivity(net, [(x, y)], "recursion").values
    net.cim_logits_and_target = lambda batch: (net(batch[0]), batch[1], nn.CrossEntropyLoss(label_smoothing=0.1))
    assert_close(sensitivity(net, [(x, y)], "recursion").values, expected)
    del net.cim_logits_and_target
    net.arguments = {}
    expected = sensitivity(net, [(x, y)], "recursion").values
    net.function = lambda o, y: F.nll_loss(o.log_softmax(1), y)
    assert_close(sensitivity(net, [(x, y)], "recursion").values, expected)


def test_separate_paths_are_the_hessian():
    """Outputs that share no activation: patches that do not overlap, one channel a group, no layer behind it."""
    net = built(
        nn.Conv2d(2, 4, 2, stride=2, groups=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        Through(lambda x: 3 - 0.5 * x),
        nn.LeakyReLU(0.3),
        nn.Flatten(),
    )
    x, y = inputs(6, 2, 8, 8), inputs(6, 16, seed=5)
    exact = hessian_diagonal(net, ["0.weight"], lambda f: F.mse_loss(f(x), y))
    assert_close(sensitivity(net, [(x, y)], "recursion").values, exact)


def test_a_whole_network_is_the_squared_jacobian():
    net = built(
        nn.Conv2d(1, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(inplace=True),
        nn.Conv2d(3, 4, 3, stride=2),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(16, 5),
        nn.ReLU(),
        nn.Linear(5, 2),
    )
    x, y = inputs(3, 1, 8, 8)[:, :, :7, :7], inputs(3, 2)
    one = [squared_jacobian_recursion(list(net), sample.unsqueeze(0), squared_error_h) for sample in x]
    expected = {f"{index}.weight": sum(part[index] for part in one) / len(x) for index in one[0]}
    assert_close(sensitivity(net, [(x, y)], "recursion").values, expected)


def test_both_branches_of_a_residual_get_the_same_second_derivative():
    def forward(self, x):
        x = self.stem(x)
        out = self.second(F.relu(self.first(x), inplace=True))
        out += x
        return self.head(torch.relu_(out))

    parts = {"stem": (4, 4), "first": (4, 5), "second": (5, 4), "head": (4, 3)}
    net = Custom(forward, **{name: nn.Linear(*size) for name, size in parts.items()}).double()
    x, y = inputs(1, 4), labels(1)
    found = sensitivity(net, [(x, y)], "recursion").values
    with torch.no_grad():
        a = net.stem(x)[0]
        b = net.first(a).relu()
        c = net.second(b) + a
        h_logits = cross_entropy_h(net(x))[0]
        h_c = (h_logits @ net.head.weight**2) * (c > 0)
        h_b = (h_c @ net.second.weight**2) * (b > 0)
        h_a = h_c + h_b @ net.first.weight**2
        expected = {
            "stem.weight": torch.outer(h_a, x[0] ** 2),
            "first.weight": torch.outer(h_b, a**2),
            "second.weight": torch.outer(h_c, b**2),
            "head.weight": torch.outer(h_logits, c.relu() ** 2),
        }
    assert_close(found, expected)


def test_unbatched_images():
    net = Custom(lambda self, x: torch.stack([self.conv(image) for image in x]).mean((2, 3)), conv=nn.Conv2d(1, 3, 3))
    batched = Custom(lambda self, x: self.conv(x).mean((2, 3)), conv=nn.Conv2d(1, 3, 3))
    x, y = inputs(4, 1, 5, 5).float(), labels(4)
    assert_close(
        sensitivity(net, [(x, y)], "recursion").values, sensitivity(batched, [(x, y)], "recursion").values, rtol=1e-4
    )


def test_tied_weights_count_once_with_their_contributions_summed():
    layer = nn.Linear(3, 3, bias=False)
    tied = built(layer, nn.ReLU(), layer)
    untied = built(nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 3, bias=False))
    untied.load_state_dict(tied.state_dict())
    x, y = inputs(8, 3), labels(8)
    parts = sensitivity(untied, [(x, y)], "recursion").values
    assert_close(sensitivity(tied, [(x, y)], "recursion").values, {"0.weight": parts["0.weight"] + parts["2.weight"]})


def test_a_weight_of_a_module_of_the_users_own():
    net = Custom(lambda self, x: x @ self.codebook, codebook=nn.Parameter(inputs(5, 3)))
    x, y = inputs(9, 5), labels(9)
    mapping = Mapping(targets=(), include=["codebook"])
    exact = hessian_diagonal(net, ["codebook"], cross_entropy_of(x, y))
    assert_close(sensitivity(net, [(x, y)], "recursion", mapping=mapping).values, exact)


def test_biases_and_embeddings_on_crossbars():
    net = Custom(lambda self, i: self.head(self.table(i)), table=nn.Embedding(6, 4), head=nn.Linear(4, 3)).double()
    i, y = torch.tensor([0, 3, 3, 5]), labels(4)
    mapping = Mapping(targets=["linear", "embedding"], include=["head.bias"])
    found = sensitivity(net, [(i, y)], "recursion", mapping=mapping).values
    exact = hessian_diagonal(net, ["head.weight", "head.bias"], cross_entropy_of(i, y))
    h = cross_entropy_h(net(i)) @ net.head.weight**2 / 4
    exact["table.weight"] = torch.zeros(6, 4).double().index_add(0, i, h).detach()
    assert_close(found, exact)


def test_activation_checkpointing():
    parts = {"first": nn.Linear(6, 6), "norm": nn.BatchNorm1d(6), "head": nn.Linear(6, 3)}

    def body(net, x):
        x = torch.relu_(net.norm(net.first(x)))
        return x @ torch.eye(6).double() - 2 * x.unfold(1, 2, 2).mean(2).repeat(1, 2)

    net = Custom(lambda self, x: self.head(body(self, x)), **parts).double()
    x, y = inputs(5, 6), labels(5)
    expected = sensitivity(net, [(x, y)], "recursion").values
    net.function = lambda self, x: self.head(checkpoint(body, self, x, use_reentrant=False))
    assert_close(sensitivity(net, [(x, y)], "recursion").values, expected)


class OfUnknownMaking(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sin()

    @staticmethod
    def backward(ctx, grad):
        return grad


def attention(self, x):
    return F.scaled_dot_product_attention(*self.first(x).view(-1, 3, 1, 4).unbind(1)).flatten(1).repeat(1, 3)


REFUSED = {
    "gelu": lambda self, x: F.gelu(self.first(x)),
    "silu": lambda self, x: F.silu(self.first(x), inplace=True),
    "tanh": lambda self, x: self.first(x).tanh(),
    "sigmoid": lambda self, x: torch.sigmoid(self.first(x)),
    "softmax": lambda self, x: self.first(x).softmax(1),
    "native_layer_norm": lambda self, x: F.layer_norm(self.first(x), (12,)),
    "native_group_norm": lambda self, x: F.group_norm(self.first(x), 3),
    "native_batch_norm": lambda self, x: F.batch_norm(self.first(x), None, None, training=True),
    "scaled_dot_product|safe_softmax": attention,  # torch 2.6 takes it apart on a CPU
    "mul": lambda self, x: self.first(x) * self.first(x),
    "pow": lambda self, x: self.first(x) ** 2,
    "div|reciprocal": lambda self, x: 1 / self.first(x),
    "bmm": lambda self, x: self.first(x).unsqueeze(1) @ self.first(x).unsqueeze(2) + self.first(x).unsqueeze(2),
    "t, mm|mm|addmm": lambda self, x: F.linear(self.first(x), self.first(x).view(12, -1)[:, :12].expand(12, 12)),
    "abs": lambda self, x: self.first(x).abs(),
    "upsample_bilinear2_d": lambda self, x: F.interpolate(
        self.first(x).view(-1, 1, 3, 4), scale_factor=2, mode="bilinear"
    ),
    "of_unknown_making": lambda self, x: OfUnknownMaking.apply(self.first(x)),
    "tanh|rnn": lambda self, x: self.rnn(self.first(x).view(-1, 3, 4))[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_operations_without_a_rule_are_refused_by_name(name):
    body = REFUSED[name]
    net = Custom(
        lambda self, x: self.head(body(self, x).flatten(1)[:, :12]),
        first=nn.Linear(5, 12),
        rnn=nn.RNN(4, 4, batch_first=True),
        head=nn.Linear(12, 3),
    )
    x, y = inputs(12, 5).float(), labels(12)
    with pytest.raises(NoRuleError, match=f"no second-derivative rule for .*({name}).*method='gauss_newton'"):
        sensitivity(net, [(x, y)], "recursion")


def test_what_does_not_depend_on_weights_needs_no_rule():
    x, y = inputs(6, 5).float(), labels(6)
    net = Custom(lambda self, x: self.head(F.gelu(F.layer_norm(x, (5,)))), head=nn.Linear(5, 3))
    plain = Custom(lambda self, x: self.head(x), head=nn.Linear(5, 3))
    prepared = F.gelu(F.layer_norm(x, (5,)))
    assert_close(
        sensitivity(net, [(x, y)], "recursion").values, sensitivity(plain, [(prepared, y)], "recursion").values
    )


@pytest.mark.parametrize("function", [F.huber_loss, F.l1_loss])
def test_criteria_without_a_rule_are_refused_by_name(function):
    net, x = Offers(function, {}), inputs(4, 5)
    for method in ("recursion", "gauss_newton"):
        with pytest.raises(ValueError, match=function.__name__):
            sensitivity(net, [(x, inputs(4, 4))], method)
