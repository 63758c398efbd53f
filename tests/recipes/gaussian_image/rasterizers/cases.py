"""Random Gaussians, and the comparison of a rasterizer with the dense sum in float64."""

import math

import torch

from recipes.gaussian_image.rasterizers import reference


def gaussians(count, height, width, *, smallest=0.15, largest=30.0, channels=3, seed=0):
    """float32 means (a quarter of them off the image), conics (each axis with a sigma of its own) and colours."""
    draw = torch.Generator().manual_seed(seed)
    size = torch.tensor([width, height], dtype=torch.float64)
    means = (torch.rand(count, 2, generator=draw, dtype=torch.float64) * 1.4 - 0.2) * size
    sigma = smallest * (largest / smallest) ** torch.rand(count, 2, generator=draw, dtype=torch.float64)
    angle = torch.rand(count, generator=draw, dtype=torch.float64) * math.pi
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], dim=1).reshape(count, 2, 2)
    inverse = turn @ torch.diag_embed(sigma**-2) @ turn.mT
    colors = torch.randn(count, channels, generator=draw, dtype=torch.float64)
    conics = torch.stack([inverse[:, 0, 0], inverse[:, 0, 1], inverse[:, 1, 1]], dim=1)
    return means.float(), conics.float(), colors.float()


def upstream(height, width, channels, seed=1):
    return torch.randn(height, width, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw_and_pull(rasterize, case, height, width, dtype=torch.float32):
    """The image and the gradients of its product with a fixed random image."""
    leaves = [values.detach().clone().to(dtype).requires_grad_() for values in case]
    image = rasterize(*leaves, height, width)
    image.backward(upstream(height, width, case[2].shape[1]).to(image))
    return image.detach(), [leaf.grad for leaf in leaves]


def weights(means, conics, height, width):
    """exp(-s) of every Gaussian at every pixel, float64, (height, width, N)."""
    x = torch.arange(width, dtype=torch.float64)[None, :, None] + 0.5 - means[:, 0].double()
    y = torch.arange(height, dtype=torch.float64)[:, None, None] + 0.5 - means[:, 1].double()
    q11, q12, q22 = conics.double().unbind(1)
    return torch.exp(-0.5 * (q11 * x * x + 2 * q12 * x * y + q22 * y * y))


def assert_image_close(image, case, height, width, tolerance=2e-5):
    """At most ``tolerance`` off, and at a pixel that lies within 1e-4 of a Gaussian's cut its colour / 255 more."""
    means, conics, colors = case
    expected = reference.rasterize(*(values.double() for values in case), height, width)
    at_cut = ((weights(means, conics, height, width) * 255 - 1).abs() < 1e-4).double()
    allowed = tolerance + at_cut @ colors.double().abs() / 255 * 1.001
    assert image.shape == (height, width, colors.shape[1])
    excess = (image.double() - expected).abs() - allowed
    assert excess.max() <= 0, f"{excess.max():.2e} beyond the tolerance"


def assert_gradients_close(grads, expected, by_gaussian, overall=1e-4):
    """Relative to the largest entry, and each Gaussian's relative to its own norm (with a floor for vanishing ones)."""
    for name, grad, true in zip(("means", "conics", "colors"), grads, expected, strict=True):
        error = (grad.double() - true).abs()
        assert error.max() <= overall * true.abs().max(), name
        own = true.norm(dim=1) + 1e-6 * true.abs().max()
        assert (error.norm(dim=1) / own).max() <= by_gaussian, name
