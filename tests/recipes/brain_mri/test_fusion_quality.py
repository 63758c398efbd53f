import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from recipes.brain_mri.fusion_quality import (
    FusionQuality,
    FusionQualityMetric,
    dssim_map,
    fusion_quality_map,
    gaussian,
    ssim_map,
    ssim_parts,
)
from tests.recipes.brain_mri import reference


def images(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def brain_like(seed):
    """Flat bright tissue with weak noise in a black background: where variances cancel most."""
    draw = np.random.default_rng(seed)
    image = np.full((24, 20), 0.97) + 0.01 * draw.standard_normal((24, 20))
    image[:, :5] = 0
    image[8:12, 9:14] = 0.3
    return np.clip(image, 0, 1).astype(np.float32)


CASES = {
    "random": (images(0, 24, 20).numpy(), images(1, 24, 20).numpy()),
    "near": (images(0, 24, 20).numpy(), (0.9 * images(0, 24, 20) + 0.1 * images(1, 24, 20)).numpy()),
    "flat and bright": (brain_like(0), brain_like(1)),
    "flat against lesion": (brain_like(0), np.full((24, 20), 0.97, np.float32)),
    "smaller than the window": (images(0, 3, 2).numpy(), images(1, 3, 2).numpy()),
}


@pytest.mark.parametrize(("x", "y"), CASES.values(), ids=CASES)
def test_maps_agree_with_the_dense_definition(x, y):
    a, b = torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None]
    dense = reference.ssim(x, y)
    assert np.abs(fusion_quality_map(a, b)[0, 0].numpy() - reference.fusion_quality(x, y)).max() <= 1e-5
    assert np.abs(dssim_map(a, b, variant="unclamped")[0, 0].numpy() - (1 - dense) / 2).max() <= 1e-5
    assert np.abs(ssim_map(a.double(), b.double())[0, 0].numpy() - dense).max() <= 1e-10


@pytest.mark.parametrize(("window", "sigma", "data_range", "alpha"), [(3, 0.8, 1.0, 0.5), (7, 2.0, 255.0, 0.1)])
def test_options_agree_with_the_dense_definition(window, sigma, data_range, alpha):
    x, y = data_range * images(0, 1, 1, 11, 13), data_range * images(1, 1, 1, 11, 13)
    options = {"window": window, "sigma": sigma, "data_range": data_range}
    expected = reference.fusion_quality(x[0, 0].numpy(), y[0, 0].numpy(), alpha, **options)
    found = fusion_quality_map(x, y, alpha, **options)[0, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_gradient_agrees_with_a_convolution_of_the_definition():
    """The published chain of convolutions in float64, differentiated by autograd."""
    x, y = images(0, 2, 1, 12, 10).double().requires_grad_(), images(1, 2, 1, 12, 10).double()
    row = torch.tensor(gaussian(5, 1.5), dtype=torch.float64)
    kernel = (row[:, None] * row)[None, None]

    def blur(image):
        return functional.conv2d(image, kernel, padding=2)

    mx, my = blur(x), blur(y)
    ssim = (2 * mx * my + 1e-4) * (2 * (blur(x * y) - mx * my) + 9e-4)
    ssim = ssim / ((mx**2 + my**2 + 1e-4) * (blur(x * x) - mx**2 + blur(y * y) - my**2 + 9e-4))
    expected = (0.84 * (1 - ssim).clamp(0, 1) / 2 + 0.16 * (x - y).abs()).mean()
    (slope,) = torch.autograd.grad(expected, x)
    single = x.detach().float().requires_grad_()
    loss = FusionQuality()(single, y.float())
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert (single.grad - slope).abs().max() <= 1e-5 * slope.abs().max()


def test_gradcheck_away_from_the_clamp():
    y = images(0, 1, 1, 6, 7).double()
    x = (0.7 * y + 0.3 * images(1, 1, 1, 6, 7).double()).requires_grad_()
    assert (ssim_map(x, y) > 0.01).all()  # so nothing is clamped
    assert ((x - y).abs() > 1e-4).all()  # nor at the kink of l1
    y.requires_grad_()
    assert torch.autograd.gradcheck(fusion_quality_map, (x, y))
    assert torch.autograd.gradgradcheck(lambda a, b: dssim_map(a, b), (x, y))


def test_clamped_pixels_have_no_gradient_through_structure():
    y = images(0, 1, 1, 9, 9)
    x = (1 - y).requires_grad_()
    negative = ssim_map(x, y) < 0
    assert negative.any()
    (slope,) = torch.autograd.grad(dssim_map(x, y)[negative].sum(), x)
    assert not slope.any()
    (slope,) = torch.autograd.grad(dssim_map(x, y, variant="unclamped")[negative].sum(), x)
    assert slope.any()


def test_equal_images_give_exactly_zero():
    for x in (images(0, 2, 1, 9, 9), torch.ones(1, 1, 9, 9), 0.97 * torch.ones(1, 1, 9, 9), torch.zeros(1, 1, 9, 9)):
        assert not fusion_quality_map(x, x).any()
        assert (ssim_map(x, x) == 1).all()


@given(st.integers(0, 2**16), st.sampled_from(["uniform", "binary", "constant"]))
def test_symmetric_and_bounded(seed, law):
    x, y = images(seed, 1, 1, 7, 8), images(seed + 1, 1, 1, 7, 8)
    if law == "binary":
        x, y = x.round(), y.round()
    if law == "constant":
        x, y = x[..., :1, :1].expand(1, 1, 7, 8), y[..., :1, :1].expand(1, 1, 7, 8)
    fq = fusion_quality_map(x, y)
    assert torch.equal(fq, fusion_quality_map(y, x))
    assert fq.min() >= 0
    assert fq.max() <= 0.58 + 1e-6
    assert dssim_map(x, y, variant="unclamped").max() <= 1 + 1e-6


def test_a_pixel_is_felt_in_its_window_only():
    x, y = images(0, 1, 1, 15, 15), images(1, 1, 1, 15, 15)
    changed = x.clone()
    changed[0, 0, 7, 6] += 0.2
    moved = (dssim_map(x, y, variant="unclamped") != dssim_map(changed, y, variant="unclamped"))[0, 0]
    assert moved[5:10, 4:9].all()
    assert moved.sum() == 25


def test_half_precision_is_computed_in_single():
    x, y = torch.from_numpy(brain_like(0))[None, None].half(), torch.from_numpy(brain_like(1))[None, None].half()
    expected = fusion_quality_map(x.float(), y.float())
    assert (fusion_quality_map(x, y).float() - expected).abs().max() < 1e-3  # |x - y| is rounded
    assert torch.equal(dssim_map(x, y), dssim_map(x.float(), y.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fusion_quality_map(x.float(), y.float()), expected)


def test_metric_averages_over_pixels_of_unequal_batches():
    x, y = images(0, 5, 1, 8, 8), images(1, 5, 1, 8, 8)
    metric = FusionQualityMetric(FusionQuality(alpha=0.5))
    metric.update(x[:2], y[:2])
    metric.update(x[2:], y[2:])
    assert metric.compute().item() == pytest.approx(fusion_quality_map(x, y, 0.5).mean().item(), abs=1e-6)
    metric.reset()
    metric.update(x[:1], y[:1])
    assert metric.compute().item() == pytest.approx(FusionQuality(alpha=0.5)(x[:1], y[:1]).item(), abs=1e-6)


def test_trains_a_network_and_adds_nothing_to_a_checkpoint():
    assert FusionQuality().state_dict() == {}
    torch.manual_seed(0)
    layer, loss, y = nn.Conv2d(1, 1, 3, padding=1), FusionQuality(), images(0, 2, 1, 12, 12)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    values = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(layer(y), y)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "window must be odd"),
        ({"sigma": 0.0}, "sigma must be above 0"),
        ({"alpha": 1.5}, "alpha must lie"),
        ({"variant": "other"}, "variant must be one of"),
    ],
)
def test_bad_options(options, message):
    x = images(0, 1, 1, 8, 8)
    with pytest.raises(ValueError, match=message):
        fusion_quality_map(x, x, **options)


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"one shape \(B, C, H, W\), got \(1, 1, 8, 8\) and \(2, 1, 8, 8\)"):
        fusion_quality_map(images(0, 1, 1, 8, 8), images(0, 2, 1, 8, 8))


def test_parts_multiply_to_ssim_and_mean_what_they_say():
    x, y = images(0, 1, 1, 9, 9).double(), images(1, 1, 1, 9, 9).double()
    luminance, structure = ssim_parts(x, y)
    assert torch.allclose((1 - luminance) * (1 - structure), ssim_map(x, y))
    ratio, mean = 1.5, 0.4  # flat images differ in brightness alone: 1 - 2 r / (1 + r^2) but for C1
    flat = torch.full((1, 1, 9, 9), mean, dtype=torch.float64)
    luminance, structure = (part[0, 0, 4, 4].item() for part in ssim_parts(flat, ratio * flat))
    assert luminance == pytest.approx(1 - 2 * ratio / (1 + ratio**2), rel=1e-3)
    assert structure == pytest.approx(0, abs=1e-12)
