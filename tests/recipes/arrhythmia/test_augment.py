import pytest
import torch

from recipes.arrhythmia.augment import augment


def test_same_generator_state_gives_the_same_batch_and_leaves_the_input_alone():
    x = torch.randn(8, 1, 64)
    before = x.clone()
    one, other = (augment(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(one, other)
    assert torch.equal(x, before)
    assert not torch.equal(augment(x, torch.Generator().manual_seed(6)), one)


def test_gain_polarity_and_noise_have_their_distributions():
    torch.manual_seed(0)
    shape = torch.randn(512)
    x = shape.repeat(4000, 1, 1)
    out = augment(x, torch.Generator().manual_seed(0))
    gain = (out * shape).sum(dim=(1, 2)) / (shape * shape).sum()
    assert (gain < 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert gain.abs().log().std() == pytest.approx(0.5, abs=0.03)
    noise = (out / gain[:, None, None] - shape).std(dim=(1, 2)) / shape.abs().max()
    assert noise.max() < 0.055
    assert noise.mean() == pytest.approx(0.025, abs=0.002)
