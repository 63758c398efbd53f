"""The U-Net."""

import pytest
import torch

from recipes.brain_mri.models.unet import Attention, UNet, sinusoids


def test_time_matters_only_where_it_is_told():
    torch.manual_seed(0)
    x, times = torch.rand(1, 1, 16, 16), [torch.tensor([t]) for t in (0, 900)]
    timed, untimed = UNet(8, (1, 2), timed=True), UNet(8, (1, 2))
    assert not torch.equal(timed(x, times[0]), timed(x, times[1]))
    assert torch.equal(untimed(x), untimed(x, times[1]))
    assert not any(name.startswith("time") for name, _ in untimed.named_parameters())


@pytest.mark.parametrize("multipliers", [(1,), (1, 2), (1, 2, 2, 3)])
def test_shape_is_kept_at_any_depth(multipliers):
    model = UNet(4, multipliers, blocks=2, attention=True)
    x = torch.rand(2, 1, 16, 16)
    assert model(x).shape == x.shape
    assert model.factor == 2 ** (len(multipliers) - 1)


def test_attention_is_equivariant_to_the_order_of_pixels():
    torch.manual_seed(0)
    model, x = Attention(8), torch.rand(1, 8, 4, 4)
    order = torch.randperm(16)
    shuffled = x.flatten(2)[..., order].view_as(x)
    assert torch.allclose(model(shuffled).flatten(2), model(x).flatten(2)[..., order], atol=1e-5)


def test_sinusoids_tell_times_apart():
    table = sinusoids(torch.arange(1000), 16)
    assert table.unique(dim=0).shape[0] == 1000
    assert torch.allclose(table[:, :8] ** 2 + table[:, 8:] ** 2, torch.ones(1000, 8), atol=1e-5)
