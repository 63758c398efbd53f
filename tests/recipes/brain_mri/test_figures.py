"""Pictures: one scale for all, lesions where they are."""

import numpy as np

from recipes.brain_mri import figures
from recipes.brain_mri.figures import SCALE, Shown
from recipes.brain_mri.module import Examined
from recipes.brain_mri.phantom import phantom


def shown(seed, strength):
    volume = phantom(seed, 32, "flair", "tumour")
    found = (strength * volume.seg).astype(np.float32)
    return Shown(volume, Examined(volume.image, {"l1": found, "fq": 2 * found}), volume.seg)


def test_maps_share_a_scale_whatever_is_in_them(monkeypatch):
    picture = figures.panel([shown(1, 0.01), shown(2, 5.0)], ["l1", "fq"])
    limits = [image.get_clim() for ax in picture.axes for image in ax.images if image.get_cmap().name == "inferno"]
    assert limits == [(0, SCALE["l1"]), (0, SCALE["fq"])] * 2


def test_the_slice_is_the_one_with_most_lesion_and_right_is_right():
    line = shown(3, 1.0)
    picture = figures.panel([line], ["l1"])
    at = int(line.volume.seg.sum((0, 1)).argmax())
    drawn = picture.axes[0].images[0]
    assert np.array_equal(drawn.get_array(), line.volume.image[..., at].T)
    assert drawn.origin == "lower"


def test_curves_have_one_line_a_training():
    rows = [{"epoch": e, "train/loss": 1 / (e + 1), "val/loss": 1, "val/l1": 1, "val/ssim": 1} for e in range(3)]
    picture = figures.training_curves({"fq": rows, "l1": rows})
    assert [len(ax.lines) for ax in picture.axes] == [2, 2, 2, 2]
    assert np.allclose(picture.axes[0].lines[0].get_ydata(), [1, 1 / 2, 1 / 3])
