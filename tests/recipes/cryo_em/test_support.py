import pytest
import torch

from recipes.cryo_em.support import check, dilate, distances, positions_of, sphere, support_of


def test_positions_are_x_y_z_from_the_centre():
    mask = torch.zeros(6, 6, 6, dtype=torch.bool)
    mask[1, 2, 5] = mask[4, 3, 3] = True
    assert positions_of(mask).tolist() == [[2, -1, -2], [0, 0, 1]]


def test_everything_in_the_sphere_stays_in_the_box_however_turned():
    assert positions_of(sphere(12)).norm(dim=1).max() <= 5


def test_the_support_holds_the_density_and_grows():
    volume = (distances(24) < 5).float()
    tight, wide = support_of(volume, dilation=0), support_of(volume, dilation=2)
    assert bool(tight[volume > 0].all())
    assert bool((wide >= tight).all())
    assert wide.sum() > 1.5 * tight.sum()
    assert torch.equal(wide, dilate(tight, 2))


@pytest.mark.parametrize(("radius", "said"), [(11.5, "reaches the edge"), (9.0, "more than half")])
def test_density_that_fills_the_box_is_told(radius, said):
    with pytest.warns(UserWarning, match=said):
        support_of((distances(24) <= radius).float())


def test_inverted_contrast_is_told():
    with pytest.raises(ValueError, match="invert"):
        support_of(-(distances(16) < 4).float())


def test_masks_are_checked():
    with pytest.raises(ValueError, match=r"\(8, 8, 8\); the particles need \(16, 16, 16\)"):
        check(torch.ones(8, 8, 8), 16)
    with pytest.raises(ValueError, match="empty"):
        check(torch.zeros(16, 16, 16), 16)
    assert torch.equal(check(torch.ones(16, 16, 16), 16), sphere(16))
