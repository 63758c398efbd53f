import pytest
import torch

from recipes.brain_mri.fusion_quality import dssim_map, fusion_quality_map
from recipes.brain_mri.residuals import KINDS, LARGEST, loss, residual

X, Y = torch.rand(2, 3, 1, 8, 9, generator=torch.Generator().manual_seed(0))
EXPECTED = {
    "l1": (X - Y).abs(),
    "l2": (X - Y) ** 2,
    "ssim": dssim_map(X, Y),
    "fq": fusion_quality_map(X, Y),
}


@pytest.mark.parametrize("kind", KINDS)
def test_residual_and_its_loss(kind):
    assert torch.equal(residual(kind, X, Y), EXPECTED[kind])
    assert torch.equal(loss(kind)(X, Y), EXPECTED[kind].mean())
    assert residual(kind, X.round(), Y.round()).max() <= LARGEST[kind] + 1e-6


def test_options_are_passed_on():
    assert torch.equal(residual("fq", X, Y, alpha=0.1), fusion_quality_map(X, Y, alpha=0.1))
    assert torch.equal(loss("ssim", window=3)(X, Y), dssim_map(X, Y, window=3).mean())


def test_bad_input():
    with pytest.raises(ValueError, match="residual must be one of l1, l2, ssim, fq, got 'mse'"):
        residual("mse", X, Y)
    with pytest.raises(ValueError, match="loss must be one of"):
        loss("mse")
    with pytest.raises(ValueError, match="l1 has no options, got alpha"):
        residual("l1", X, Y, alpha=0.5)
    with pytest.raises(ValueError, match="differ in shape"):
        residual("l2", X, Y[:1])
