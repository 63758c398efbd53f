"""The model: Gaussians of seeds against a loop, levels, and what the file sees."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import lightning_cim as cim
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.module import CROSSBARS, psnr
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import LEAST_SIGMA, Attributes, SgiConfig, StructuredImage

SMALL = SgiConfig(32, 48, num_seeds=30, k=3, feat_dim=6, hidden=7, hash=HashConfig((6, 40), 64))


def make(config=SMALL):
    torch.manual_seed(0)
    model = StructuredImage(config)
    with torch.no_grad():
        model.feature.normal_()
        model.log_scale.add_(torch.randn_like(model.log_scale) * 0.3)
    return model


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("changes", [{}, {"authors": True}, {"hidden": 0}], ids=str)
def test_gaussians_equal_the_loop_over_seeds(level, changes):
    model = make(dataclasses.replace(SMALL, **changes))
    with torch.no_grad():
        f, s, d = model.attributes()
        means, conics, colors = model.gaussians(model.attributes(), level)
        for i in (0, 11, len(f) - 1):
            shape = model.shape_mlp(f[i]).view(3, 3)
            scale = 2.0 ** (2 - level)
            for k in range(3):
                n = 3 * i + k
                pixel = scale * float(model.unit[i])
                for axis in (0, 1):
                    moved = float(d[i, 2 * k + axis] * s[i, axis]) * pixel
                    assert float(means[n, axis]) == pytest.approx(
                        float(model.positions[i, axis]) * scale + moved, rel=1e-4
                    )
                a, b, angle = (float(value) for value in shape[k])
                sigma = [
                    max(float(s[i, 2 + axis]) * pixel / (1 + math.exp(-raw)), LEAST_SIGMA)
                    for axis, raw in enumerate((a, b))
                ]
                turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
                inverse = np.linalg.inv(turn @ np.diag(np.square(sigma)) @ turn.T)
                np.testing.assert_allclose(
                    conics[n], [inverse[0, 0], inverse[0, 1], inverse[1, 1]], rtol=2e-3, atol=1e-5
                )
                torch.testing.assert_close(colors[n], model.color_mlp(f[i]).view(3, 3)[k])


def test_networks_of_a_single_layer_are_linear_in_the_feature():
    model = make(dataclasses.replace(SMALL, hidden=0))
    one, other = torch.rand(2, 6)
    for mlp in (model.color_mlp, model.shape_mlp):
        assert len(list(mlp.parameters())) == 2
        torch.testing.assert_close(mlp((one + other) / 2), (mlp(one) + mlp(other)) / 2)
    assert model.network_bytes == 2 * (2 * (6 * 9 + 9) + 4 * 4 + 4 + 4 * 35 + 35)


def test_authors_first_values():
    model = StructuredImage(dataclasses.replace(SMALL, authors=True))
    assert not model.offset.any()
    assert not model.feature.any()
    assert 1 <= float(model.log_scale.exp().min()) <= float(model.log_scale.exp().max()) <= 1.65
    assert (model.unit == 1).all()
    assert model.context.raw_scale
    assert StructuredImage(SMALL).offset.std() > 0.4


def test_positions_depend_on_the_config_only():
    torch.manual_seed(1)
    first = StructuredImage(SMALL)
    torch.manual_seed(2)
    second = StructuredImage(SMALL)
    assert torch.equal(first.positions, second.positions)
    assert not torch.equal(first.offset, second.offset)
    moved = StructuredImage(dataclasses.replace(SMALL, position_seed=1))
    assert not torch.equal(first.positions, moved.positions)
    assert not any("position" in name or "unit" in name for name in first.state_dict())


def test_a_change_of_level_keeps_the_picture():
    """The next level's render, averaged over 2 x 2 pixels, is the render before the change: at least 40 dB."""
    model = make(dataclasses.replace(SMALL, height=64, width=64, num_seeds=20))
    draw = rasterizer("torch")
    with torch.no_grad():
        model.color_mlp[2].bias.fill_(0.15)
        model.log_scale.fill_(0.5)
        attributes = model.attributes()
        for level in (1, 0):
            before, after = model.render(attributes, level + 1, draw), model.render(attributes, level, draw)
            assert before.std() > 0.05
            averaged = F.avg_pool2d(after.permute(2, 0, 1), 2).permute(1, 2, 0)
            assert psnr(averaged, before.clamp(0, 1)) >= 40


def test_quantised_attributes_are_multiples_of_the_files_steps():
    model = make()
    stats = model.context.coding_stats()
    for kind, part, exact in zip("fsd", model.quantised(), model.attributes(), strict=True):
        ratio = part.numpy() / stats[kind].step
        np.testing.assert_allclose(ratio, np.rint(ratio), atol=1e-3)
        assert (np.abs(part.numpy() - exact.detach().numpy()) <= stats[kind].step / 2 + 1e-6).all()


def test_stored_model_is_a_half_precision_copy_that_stays_as_it_is():
    model = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stored = model.as_stored()
    for name, parameter in stored.networks().items():
        assert torch.equal(parameter, parameter.half().float())
        assert torch.equal(parameter, stored.as_stored().networks()[name])
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert stored.network_bytes == 2 * (2 * (6 * 7 + 7 + 7 * 9 + 9) + 4 * 4 + 4 + 4 * 35 + 35)
    assert all(torch.equal(a, b) for a, b in zip(stored.quantised(), model.quantised(), strict=True))


def test_chips_hold_the_networks_that_make_gaussians_and_nothing_else():
    class Holder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.structured = make()

    names = [target.name for target in CROSSBARS.resolve(Holder())]
    assert names == [f"structured.{mlp}.{layer}.weight" for mlp in ("color_mlp", "shape_mlp") for layer in (0, 2)]
    holder = Holder()
    stats = holder.structured.context.coding_stats()
    chip = cim.ChipPopulation(holder, cim.Gaussian(0.2), mapping=CROSSBARS)[0]
    with torch.no_grad(), cim.on_chip(holder, chip):
        attributes = Attributes(*(torch.ones_like(part) for part in holder.structured.attributes()))
        deviated = holder.structured.gaussians(attributes, 0)
        for kind, part in holder.structured.context.coding_stats().items():
            assert all((one == two).all() for one, two in zip(part, stats[kind], strict=True))
    with torch.no_grad():
        assert not torch.equal(deviated.colors, holder.structured.gaussians(attributes, 0).colors)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"num_seeds": 0}, "at least 1"),
        ({"hidden": -1}, "hidden at least 0"),
        ({"height": 1}, "has no 3 levels"),
        ({"step_d": 0.0}, "must be positive"),
    ],
)
def test_configs_that_make_no_model_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **bad)
