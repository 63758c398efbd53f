from dataclasses import replace

import numpy as np
import pytest

from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.volume import Volume, centred_affine, depth_of

CUBE = np.full((6, 5, 4), 0.5, np.float32)
GOOD = Volume("case", CUBE, CUBE > 0, None, np.eye(4))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": CUBE[0]}, r"\(5, 4\)"),
        ({"image": CUBE - 1}, r"\[-0.5, -0.5\]"),
        ({"image": CUBE + np.float32(np.nan)}, "finite"),
        ({"image": CUBE.astype(np.float64)}, "float64"),
        ({"healthy": CUBE * 3}, "healthy.*1.5"),
        ({"mask": CUBE}, "mask is float32"),
        ({"seg": (CUBE > 0)[:, :, :2]}, r"seg has shape \(6, 5, 2\)"),
        ({"affine": np.eye(3)}, r"\(3, 3\)"),
        ({"lesion": "stroke"}, "stroke.*tumour, ms"),
    ],
)
def test_a_bad_volume_says_its_name_and_what_is_wrong(change, says):
    with pytest.raises(ValueError, match=f"case: .*{says}"):
        replace(GOOD, **change)


def test_the_default_grid_is_that_of_the_paper():
    assert depth_of(96) == 50
    affine = centred_affine((96, 96, 50), 2)
    assert np.allclose(affine @ [47.5, 47.5, 24.5, 1], [0, 0, 0, 1])


@pytest.mark.parametrize("lesion", [None, "tumour", "ms"])
@pytest.mark.parametrize("contrast", ["t1", "t2", "flair"])
def test_phantoms_are_reproducible_and_their_lesions_paired(contrast, lesion):
    volume, again = (phantom(5, 32, contrast, lesion) for _ in range(2))
    assert np.array_equal(volume.image, again.image)
    assert not np.array_equal(volume.image, phantom(6, 32, contrast, lesion).image)
    assert volume.seg.any() == (lesion is not None)
    assert not (volume.seg & ~volume.mask).any()
    assert np.array_equal(volume.image[~volume.seg], volume.healthy[~volume.seg])
    assert np.array_equal(volume.healthy, phantom(5, 32, contrast).image)
    assert not volume.image[~volume.mask].any()


def test_phantoms_lesions_are_bright_on_flair_and_t2():
    for contrast in ("t2", "flair"):
        volume = phantom(2, 48, contrast, "tumour", noise=0)
        white = np.median(volume.healthy[volume.mask])
        assert volume.image[volume.seg].mean() > 1.2 * white


@pytest.mark.parametrize("wrong", [{"contrast": "pd"}, {"lesion": "stroke"}])
def test_a_phantom_of_what_is_not_known_is_refused(wrong):
    with pytest.raises(ValueError, match="known are"):
        phantom(**wrong)
