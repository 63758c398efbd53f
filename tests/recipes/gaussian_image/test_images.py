"""Images by name and from files."""

import numpy as np
import pytest
import torch

from recipes.gaussian_image import images

Image = pytest.importorskip("PIL.Image")


def test_astronaut_is_the_mean_of_its_pixels():
    pytest.importorskip("skimage")
    small, full = images.load("astronaut"), images.load("astronaut512")
    assert small.shape == (256, 256, 3)
    assert full.shape == (512, 512, 3)
    torch.testing.assert_close(small[7, 100], full[14:16, 200:202].mean((0, 1)))
    assert 0 <= full.min() < full.max() <= 1


def test_files_of_any_mode_become_rgb(tmp_path):
    grey = tmp_path / "grey.png"
    Image.fromarray(np.full((3, 5), 51, np.uint8)).save(grey)
    torch.testing.assert_close(images.load(str(grey)), torch.full((3, 5, 3), 0.2))
    clear = tmp_path / "clear.png"
    Image.fromarray(np.zeros((2, 2, 4), np.uint8), "RGBA").save(clear)
    assert images.load(str(clear)).min() == 1


def test_what_is_no_image_is_named(tmp_path):
    text = tmp_path / "text.png"
    text.write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png: not an image"):
        images.load(str(text))
    with pytest.raises(ValueError, match=r"missing\.png: no such image file"):
        images.load(str(tmp_path / "missing.png"))


def test_pyramid_is_pillows_bicubic():
    image = torch.rand(37, 50, 3, generator=torch.Generator().manual_seed(0))
    levels = images.pyramid(image, 3)
    assert [tuple(level.shape[:2]) for level in levels] == [(37, 50), (18, 25), (9, 12)]
    assert torch.equal(levels[0], image)
    for channel in range(3):
        pillow = Image.fromarray(image[..., channel].numpy(), "F").resize((12, 9), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(levels[2][..., channel], np.clip(np.asarray(pillow), 0, 1), atol=1e-4)
