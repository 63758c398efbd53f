"""Every backend that runs on a CPU against the dense sum in float64."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.gaussian_image.rasterizers import reference, torch_tiles
from tests.recipes.gaussian_image.rasterizers.cases import (
    assert_gradients_close,
    assert_image_close,
    draw_and_pull,
    gaussians,
)

numba_spans = pytest.importorskip("recipes.gaussian_image.rasterizers.numba_spans", exc_type=ImportError)

# The moments of a tile are float32 sums, so a Gaussian whose gradients cancel keeps fewer digits than by scanlines.
BACKENDS = {
    "numba": (numba_spans.rasterize, 1e-4),
    "torch": (torch_tiles.rasterize, 1e-3),
    "torch, tiles of 16": (partial(torch_tiles.rasterize, tile=16), 1e-3),
}
each_backend = pytest.mark.parametrize(("rasterize", "by_gaussian"), BACKENDS.values(), ids=BACKENDS.keys())


@each_backend
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("size", [(48, 40), (17, 61)])
def test_image_and_gradients(rasterize, by_gaussian, seed, size):
    case = gaussians(200, *size, seed=seed)
    image, grads = draw_and_pull(rasterize, case, *size)
    assert_image_close(image, case, *size)
    expected = draw_and_pull(reference.rasterize, case, *size, dtype=torch.float64)[1]
    assert_gradients_close(grads, expected, by_gaussian)


@each_backend
def test_float32_alone_does_not_give_this_precision(rasterize, by_gaussian):
    """The dense sum in float32 misses the bar of the test above tenfold: thin Gaussians cancel."""
    case = gaussians(200, 48, 40)
    with pytest.raises(AssertionError, match="beyond the tolerance"):
        assert_image_close(reference.rasterize(*case, 48, 40), case, 48, 40, tolerance=2e-4)


@each_backend
def test_no_gaussian_is_black_and_has_gradients(rasterize, by_gaussian):
    case = [torch.zeros(0, 2), torch.zeros(0, 3), torch.zeros(0, 3)]
    image, grads = draw_and_pull(rasterize, case, 7, 5)
    assert torch.equal(image, torch.zeros(7, 5, 3))
    assert [tuple(grad.shape) for grad in grads] == [(0, 2), (0, 3), (0, 3)]


@each_backend
def test_pixels_without_a_gaussian_are_zero_and_far_gaussians_have_no_gradient(rasterize, by_gaussian):
    near, far = [2.0, 2.0], [[-40.0, 3.0], [3.0, 90.0], [1e7, 1e7], [-3e38, 3e38]]
    means, conics = torch.tensor([near, *far]), torch.tensor([[1.0, 0.2, 1.0]]).repeat(5, 1)
    image, grads = draw_and_pull(rasterize, [means, conics, torch.ones(5, 3)], 40, 30)
    assert image[:4, :4].min() > 0
    assert torch.equal(image[10:], torch.zeros(30, 30, 3))
    for grad in grads:
        assert grad[0].abs().max() > 0
        assert torch.equal(grad[1:], torch.zeros_like(grad[1:]))


@each_backend
def test_a_gaussian_between_pixel_centres_draws_nothing(rasterize, by_gaussian):
    point = [torch.tensor([[3.0, 3.0]]), torch.tensor([[1e12, 0.0, 1e12]]), torch.ones(1, 3)]
    image, grads = draw_and_pull(rasterize, point, 6, 6)
    assert torch.equal(image, torch.zeros(6, 6, 3))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


@each_backend
def test_a_point_at_a_pixel_centre_draws_that_pixel_only(rasterize, by_gaussian):
    point = [torch.tensor([[3.5, 2.5]]), torch.tensor([[1e12, 0.0, 1e12]]), torch.tensor([[0.25, -2.0, 1.0]])]
    expected = torch.zeros(6, 6, 3)
    expected[2, 3] = point[2][0]
    assert torch.equal(rasterize(*point, 6, 6), expected)


@each_backend
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_any_number_of_channels(rasterize, by_gaussian, channels):
    case = gaussians(40, 20, 24, channels=channels, smallest=0.5, largest=8.0)
    image, grads = draw_and_pull(rasterize, case, 20, 24)
    assert_image_close(image, case, 20, 24)
    expected = draw_and_pull(reference.rasterize, case, 20, 24, dtype=torch.float64)[1]
    assert_gradients_close(grads, expected, by_gaussian)


@each_backend
def test_nothing_is_clamped(rasterize, by_gaussian):
    point = [torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.0, 1.0]]), torch.tensor([[5.0, -5.0, 0.0]])]
    assert rasterize(*point, 1, 1)[0, 0].tolist() == [5.0, -5.0, 0.0]


@each_backend
def test_autocast_changes_nothing(rasterize, by_gaussian):
    case = gaussians(50, 24, 24)
    expected = draw_and_pull(rasterize, case, 24, 24)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        image, grads = draw_and_pull(rasterize, case, 24, 24)
    assert torch.equal(image, expected[0])
    assert all(torch.equal(a, b) for a, b in zip(grads, expected[1], strict=True))


@each_backend
def test_strided_input_and_gradient(rasterize, by_gaussian):
    case = gaussians(30, 12, 14)
    wide = [torch.stack([values, values], dim=2)[..., 0].requires_grad_() for values in case]
    assert not wide[0].is_contiguous()
    plain = [values.clone().requires_grad_() for values in case]
    for leaves in (wide, plain):
        (rasterize(*leaves, 12, 14).permute(2, 0, 1) ** 2).sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(wide, plain, strict=True))


@each_backend
def test_float16_is_refused(rasterize, by_gaussian):
    with pytest.raises(ValueError, match=r"torch.float16: this rasterizer takes torch.float32"):
        rasterize(*(values.half() for values in gaussians(3, 8, 8, smallest=1.0)), 8, 8)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([(0.15, 2.0), (0.15, 30.0), (5.0, 30.0)]),
    st.integers(0, 10_000),
)
@each_backend
def test_any_shape(rasterize, by_gaussian, count, height, width, sigmas, seed):
    case = gaussians(count, height, width, smallest=sigmas[0], largest=sigmas[1], seed=seed)
    assert_image_close(rasterize(*case, height, width), case, height, width)
