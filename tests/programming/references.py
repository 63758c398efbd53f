"""Slow, independent second derivatives: full Hessians, full Jacobians; and what the tests of a method share."""

import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn import functional as F


def weights_of(net, names):
    return {name: dict(net.named_parameters())[name].detach() for name in names}


def hessian_diagonal(net, names, loss):
    """The diagonal of the Hessian of ``loss(functional net)`` for some parameters, from the full matrix of each."""
    diagonals = {}
    for name, weight in weights_of(net, names).items():

        def of(value, name=name):
            return loss(lambda x: functional_call(net, {name: value}, (x,)))

        full = hessian(of)(weight).reshape(weight.numel(), weight.numel())
        diagonals[name] = full.diagonal().reshape(weight.shape).detach()
    return diagonals


def gauss_newton_diagonal(net, names, x):
    """The diagonal of mean_n J^T (diag(p) - p p^T) J of a classifier, from full Jacobians."""
    p = net(x).softmax(1).detach()
    curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    diagonals = {}
    for name, weight in weights_of(net, names).items():
        jacobian = jacrev(lambda value, name=name: functional_call(net, {name: value}, (x,)))(weight).flatten(2)
        diagonals[name] = torch.einsum("nki,nkl,nli->i", jacobian, curvature, jacobian).reshape(weight.shape) / len(x)
    return diagonals


def squared_jacobian_recursion(layers, x, h_of):
    """The recursion by its definition, one sample at a time: every layer's full Jacobian, squared elementwise.

    Args:
        layers: Modules that are applied one after another, in eval mode.
        x: One sample with its batch dimension.
        h_of: Second derivative of the loss by the logits.

    Returns:
        By (index of the layer, "weight"), the second derivative of the loss by that weight.
    """
    inputs = [x.detach()]
    for layer in layers:
        inputs.append(layer(inputs[-1].clone()).detach())  # ReLU may work in place
    h, found = h_of(inputs[-1]).flatten(), {}
    for index in reversed(range(len(layers))):
        layer, value = layers[index], inputs[index]
        for name, weight in layer.named_parameters():
            if name != "weight" or weight.ndim < 2:
                continue
            jacobian = jacrev(lambda w, layer=layer, value=value: functional_call(layer, {"weight": w}, (value,)))(
                weight.detach()
            )
            found[index] = (jacobian.reshape(h.numel(), -1).square().T @ h).reshape(weight.shape).detach()
        jacobian = jacrev(lambda value, layer=layer: layer(value.clone()))(value).reshape(h.numel(), -1).detach()
        h = jacobian.square().T @ h
    return found


def cross_entropy_h(logits):
    p = logits.softmax(1)
    return p * (1 - p)


def squared_error_h(logits):
    return torch.full_like(logits, 2 / logits.numel())


def ranks(values):
    return values.flatten().argsort().argsort().double()


def spearman(first, second):
    return torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1].item()


def cross_entropy_of(x, y, **kwargs):
    return lambda net: F.cross_entropy(net(x), y, **kwargs)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, batch_first=True)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


def assert_close(found, expected, rtol=1e-5):
    assert set(found) == set(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def inputs(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(*shape, classes=3, seed=1):
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


def built(*layers):
    """A double-precision network with batch-norm statistics and scales that are not trivial, in eval mode."""
    torch.manual_seed(0)
    net = nn.Sequential(*layers).double()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.running_mean, -1, 1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2)
                nn.init.uniform_(module.bias, -1, 1)
    return net.eval()


class Through(nn.Module):
    """Any function as a layer."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)
