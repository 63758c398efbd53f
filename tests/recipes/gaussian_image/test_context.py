"""The entropy model: training's float statistics and the file's integer ones."""

import copy

import numpy as np
import pytest
import torch

from recipes.gaussian_image.context import KINDS, LEAST_SCALE, SYMBOL_BITS, Context
from recipes.gaussian_image.hash_grid import HashConfig

WIDTHS = {"f": 5, "s": 4, "d": 6}
STEPS = {"f": 1.0, "s": 0.25, "d": 0.2}


def make(raw_scale=False, n=40):
    torch.manual_seed(1)
    context = Context(torch.rand(n, 2), WIDTHS, STEPS, 8, HashConfig((5, 50), 64, 2), raw_scale)
    with torch.no_grad():
        for parameter in context.mlp.parameters():
            parameter.mul_(2)
            parameter.copy_(parameter.half())
    return context


@pytest.mark.parametrize("raw_scale", [False, True])
def test_integer_statistics_are_the_float_ones_on_a_grid(raw_scale):
    context = make(raw_scale)
    with torch.no_grad():
        exact = copy.deepcopy(context).double()()
    coding = context.coding_stats()
    for kind in KINDS:
        mean, scale, step = (part.numpy() for part in exact[kind])
        unit = 1 << SYMBOL_BITS
        np.testing.assert_allclose(coding[kind].step, step, rtol=2e-3, atol=1e-5)
        np.testing.assert_allclose(coding[kind].mean / unit, mean / step, rtol=4e-3, atol=2e-2)
        wanted = np.maximum(scale / step, 1 / unit)
        np.testing.assert_allclose(coding[kind].scale / unit, wanted, rtol=4e-3, atol=2e-2)
        assert coding[kind].scale.min() >= 1
        assert (coding[kind].step * 2**20 == np.rint(coding[kind].step * 2**20)).all()


def test_statistics_do_not_depend_on_which_seeds_are_asked_for():
    context = make()
    some = np.array([3, 17, 4])
    whole, part = context.coding_stats(), context.coding_stats(some)
    floats, few = context(), context(torch.from_numpy(some))
    for kind in KINDS:
        for one, other in zip(whole[kind], part[kind], strict=True):
            assert (one[some] == other).all()
        for one, other in zip(floats[kind], few[kind], strict=True):
            torch.testing.assert_close(one[some], other)


def test_integer_statistics_ignore_threads_autocast_and_default_type():
    context = make()
    plain = context.coding_stats()
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        torch.set_default_dtype(torch.float64)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            other = context.coding_stats()
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_num_threads(threads)
    for kind in KINDS:
        for one, two in zip(plain[kind], other[kind], strict=True):
            assert (one == two).all()


def test_scales_are_positive_and_can_learn_from_anywhere():
    context = make()
    with torch.no_grad():
        context.mlp[2].bias.fill_(-30.0)
    stats = context()
    assert stats["f"].scale.min() >= LEAST_SCALE
    stats["s"].scale.log().sum().backward()
    assert float(context.mlp[2].bias.grad.abs().sum()) > 0
    authors = make(raw_scale=True)
    with torch.no_grad():
        authors.mlp[2].bias.fill_(-30.0)
    authors()["s"].scale.sum().backward()
    assert float(authors.mlp[2].bias.grad.abs().sum()) == 0  # the dead gradient that softplus avoids
