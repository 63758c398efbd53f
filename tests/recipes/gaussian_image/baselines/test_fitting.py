import pytest
import torch

from recipes.gaussian_image.baselines.fitting import FitSettings
from recipes.gaussian_image.baselines.gaussian_image import GaussianImage, GaussianImageConfig, cells
from recipes.gaussian_image.baselines.lig import Lig
from recipes.gaussian_image.module import psnr
from recipes.gaussian_image.rasterizers import rasterizer
from tests.recipes.gaussian_image.baselines.small import fitted_gaussian_image, fitted_lig, picture

draw = rasterizer("auto")


def test_a_gaussian_image_fits_and_keeps_most_of_it_quantised():
    start = GaussianImage(GaussianImageConfig(28, 40, 90))
    before = psnr(start.render(start.plane.values(), draw), picture())
    free = fitted_gaussian_image(60, 1.0)
    coarse = fitted_gaussian_image(60, 0.5)
    reached = psnr(free.render(free.plane.values(), draw), picture())
    assert reached > 24 > before + 10
    assert psnr(coarse.render(coarse.quantised(), draw), picture()) > reached - 5


def test_fitting_through_the_quantisers_is_better_than_rounding_afterwards():
    afterwards = GaussianImage(fitted_gaussian_image(200, 1.0).config)
    afterwards.load_state_dict(fitted_gaussian_image(200, 1.0).state_dict())
    afterwards.start_quantisers()
    aware = fitted_gaussian_image(200, 0.5)
    assert psnr(aware.render(aware.quantised(), draw), picture()) > 1 + psnr(
        afterwards.render(afterwards.quantised(), draw), picture()
    )


def test_stored_gaussians_are_the_quantised_ones_in_another_order():
    model = fitted_gaussian_image()
    rows = [torch.cat(tuple(values), 1) for values in (model.quantised(), model.stored())]
    assert sorted(rows[0].tolist()) == sorted(rows[1].tolist())
    assert torch.allclose(model.render(model.stored(), draw), model.render(model.quantised(), draw), atol=1e-5)


def test_positions_outside_of_the_image_go_to_its_nearest_cell():
    config = GaussianImageConfig(28, 40, 1, xy_bits=3)
    assert config.cells == (8, 6)
    found = cells(torch.tensor([[-3.0, 50.0], [41.0, 0.0], [39.9, 27.9]]), config)
    assert found.tolist() == [[0, 5], [7, 0], [7, 5]]


def test_a_lig_fits_its_levels_one_after_the_other():
    model = fitted_lig()
    assert model.coarse.size == (14, 20)
    assert len(model.coarse.color) == 11
    assert len(model.fine.color) == 79
    coarse = model.coarse.render(model.coarse.values(), draw)
    small = torch.nn.functional.interpolate(picture().permute(2, 0, 1)[None], (14, 20), mode="area")[0].permute(1, 2, 0)
    assert psnr(coarse, small) > 13
    assert psnr(model.render(model.values(), draw), picture()) > 22


def test_what_a_coarse_level_misses_spans_zero_to_one():
    model = Lig((28, 40), 90)
    target = model.start_level(1, picture(), draw)
    assert target.min() == 0
    assert target.max() == 1
    # Nothing is drawn yet by the coarse plane: the rest is the image itself.
    assert torch.allclose(model.join(torch.zeros(14, 20, 3), target, model.low, model.high), picture(), atol=1e-6)


def test_the_same_seed_gives_the_same_fit():
    first = fitted_gaussian_image(60, 0.5).state_dict()
    again = fitted_gaussian_image.__wrapped__(60, 0.5).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("bad", [{"steps": 0}, {"decay_from": 1.5}, {"quantise_from": -0.1}, {"coarse_share": 2.0}])
def test_settings_out_of_range(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FitSettings(**{"steps": 10, **bad})


@pytest.mark.parametrize("bad", [{"count": 0}, {"xy_bits": 17}, {"shape_bits": 0}, {"entries": 1}])
def test_models_that_cannot_be(bad):
    with pytest.raises(ValueError, match=r"at least|want"):
        GaussianImageConfig(**{"height": 8, "width": 8, "count": 4, **bad})


def test_a_lig_needs_gaussians_on_both_levels():
    with pytest.raises(ValueError, match="too few"):
        Lig((28, 40), 7)
