import numpy as np
import pytest
import torch

import lightning_cim as cim
from recipes.gaussian_image import figures
from recipes.gaussian_image.chips import METRIC, Point


def panel(figure, title):
    return next(ax for ax in figure.axes if ax.get_title() == title)


def test_overview_shows_original_picture_error_and_seeds(tmp_path):
    pixels = torch.rand(20, 30, 3, generator=torch.Generator().manual_seed(0))
    picture = pixels + 0.1
    picture[0, 0] = 5.0  # clamped
    seeds = torch.tensor([[3.0, 4.0], [29.0, 19.0]])
    figure = figures.overview(pixels, picture, seeds, "mine")
    figure.savefig(tmp_path / "overview.png")
    assert np.allclose(panel(figure, "original").images[0].get_array(), pixels)
    assert np.allclose(panel(figure, "mine").images[0].get_array(), picture.clamp(0, 1))
    error = panel(figure, "absolute error, mean over colours").images[0]
    expected = 255 * np.abs(np.clip(picture.numpy(), 0, 1) - pixels.numpy()).mean(2)
    assert np.allclose(error.get_array(), expected, atol=1e-4)
    assert error.get_clim() == (0, pytest.approx(np.percentile(expected, 99.5), rel=1e-5))
    assert [ax.get_ylabel() for ax in figure.axes if ax.get_ylabel()] == ["1/255"]  # the scale's bar
    dots = panel(figure, "2 seeds").collections[0].get_offsets()
    assert np.array_equal(np.asarray(dots), seeds.numpy())


def test_overview_of_a_perfect_picture_has_a_scale_all_the_same():
    pixels = torch.full((8, 8, 3), 0.5)
    error = panel(figures.overview(pixels, pixels, torch.zeros(1, 2)), "absolute error, mean over colours").images[0]
    assert error.get_clim() == (0, 1)


def test_large_images_are_averaged_down_in_place():
    pixels = torch.zeros(4, 2050, 3)
    pixels[:, ::2] = 1
    figure = figures.overview(pixels, pixels, torch.zeros(1, 2))
    shown = panel(figure, "original").images[0]
    assert max(shown.get_array().shape[:2]) <= figures.LONGEST_SIDE
    assert float(np.mean(shown.get_array())) == pytest.approx(0.5, abs=0.01)
    assert tuple(shown.get_extent()) == (0, 2050, 4, 0)


def test_curves_hold_the_points_in_order_of_size(tmp_path):
    images = {"a": {"SGI": [(2.0, 30.0), (1.0, 28.0)], "JPEG": [(0.5, 25.0)]}, "b": {"JPEG": [(0.7, 24.0)]}}
    figure = figures.rate_distortion(images, dashed=["JPEG"])
    figure.savefig(tmp_path / "rates.png")
    ours, jpeg = panel(figure, "a").lines
    assert (ours.get_xdata().tolist(), ours.get_ydata().tolist()) == ([1.0, 2.0], [28.0, 30.0])
    assert (ours.get_linestyle(), jpeg.get_linestyle()) == ("-", "--")
    assert jpeg.get_color() == panel(figure, "b").lines[0].get_color() != ours.get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SGI", "JPEG"]
    assert "bits per pixel" in panel(figure, "a").get_xlabel()
    assert "CPU seconds" in panel(figures.against_time(images), "a").get_xlabel()


def test_bands_over_chips_are_percentiles(tmp_path):
    draw = np.random.default_rng(0)
    results = {
        Point(net, part, sigma): cim.ChipResult({METRIC: draw.normal(28 - 40 * sigma, 1, 50)}, list(range(50)))
        for net in ("plain", "trained at 0.05")
        for part in ("both networks", "attributes")
        for sigma in (0.1, 0.0, 0.05)
    }
    figure = figures.against_sigma(results)
    figure.savefig(tmp_path / "sigma.png")
    ax = panel(figure, "both networks")
    sample = results[Point("plain", "both networks", 0.05)].of(METRIC)
    mean, worst = ax.lines[:2]
    assert mean.get_xdata().tolist() == [0.0, 0.05, 0.1]
    assert mean.get_ydata()[1] == pytest.approx(sample.mean())
    assert worst.get_ydata()[1] == sample.min()
    corners = ax.collections[0].get_paths()[0].vertices
    at = sorted(set(corners[np.isclose(corners[:, 0], 0.05), 1]))
    assert at == pytest.approx(np.percentile(sample, [5, 95]))
    assert "max|W|" in ax.get_xlabel()
    assert "std" in panel(figure, "attributes").get_xlabel()
