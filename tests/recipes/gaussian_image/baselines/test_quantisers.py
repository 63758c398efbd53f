import itertools

import pytest
import torch

from recipes.gaussian_image.baselines.quantisers import ResidualQuantiser, UniformQuantiser


def test_uniform_levels_span_the_values_and_are_at_most_half_a_step_away():
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.2])
    quantiser = UniformQuantiser(4, 3)
    quantiser.start(x)
    assert torch.allclose(quantiser.step, (x.amax(0) - x.amin(0)) / 15)
    assert ((quantiser(x) - x).abs() <= quantiser.step / 2 + 1e-5).all()
    assert set(quantiser.symbols(x).unique().tolist()) <= set(range(16))


def test_uniform_forward_is_what_a_decoder_computes():
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(1)) * 7
    quantiser = UniformQuantiser(6, 3)
    quantiser.start(x, spare=0.01)
    assert torch.equal(quantiser(x), quantiser.values(quantiser.symbols(x)))


def test_uniform_gradients_pass_inside_and_reach_the_levels():
    quantiser = UniformQuantiser(2, 1)
    quantiser.start(torch.tensor([[0.0], [3.0]]))
    x = torch.tensor([[1.4], [9.0]], requires_grad=True)
    quantiser(x).sum().backward()
    assert x.grad.flatten().tolist() == [1.0, 0.0]
    # LSQ: round(v) - v inside the levels, the last level beyond them.
    assert quantiser.step.grad.item() == pytest.approx((1 - 1.4) + 3, abs=1e-5)
    # The lowest level moves a value only where it is clipped.
    assert quantiser.lowest.grad.item() == pytest.approx(1.0, abs=1e-5)


def test_residual_symbols_are_the_greedy_nearest_entries():
    quantiser = ResidualQuantiser(2, 4, 3)
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(2))
    quantiser.start(x)
    books = quantiser.books.detach().half().double()
    for row, symbols in zip(x.double(), quantiser.symbols(x).tolist(), strict=True):
        rest = row
        for book, symbol in zip(books, symbols, strict=True):
            distances = (book - rest).norm(dim=1)
            assert distances[symbol] <= distances.min() + 1e-6
            rest = rest - book[symbol]


def test_residual_forward_is_what_a_decoder_computes():
    quantiser = ResidualQuantiser(2, 8, 3)
    x = torch.randn(300, 3, generator=torch.Generator().manual_seed(3))
    quantiser.start(x)
    assert torch.equal(quantiser(x), quantiser.values(quantiser.symbols(x)))


def test_residual_quantiser_finds_colours_that_are_sums_of_few():
    coarse = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 4, 0], [0, 0, 4]])
    fine = torch.tensor([[0.0, 0, 0], [0.25, 0, 0], [0, 0.25, 0], [0, 0, 0.25]])
    x = torch.stack([a + b for a, b in itertools.product(coarse, fine)]).repeat(5, 1)
    quantiser = ResidualQuantiser(2, 4, 3)
    quantiser.start(x)
    one = ResidualQuantiser(1, 4, 3)
    one.start(x)
    assert (quantiser(x) - x).square().mean() < 0.5 * (one(x) - x).square().mean()


def test_residual_gradients_reach_values_and_codebooks():
    quantiser = ResidualQuantiser(2, 4, 3)
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(4)).requires_grad_()
    quantiser.start(x.detach())
    quantiser(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(20, 3))
    assert quantiser.books.grad.sum().item() == pytest.approx(2 * 20 * 3)
