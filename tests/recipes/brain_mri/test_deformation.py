import numpy as np
import pytest
from scipy import ndimage

from recipes.brain_mri.deformation import grid_points, mass_effect, sample, spline_field, subject_map
from recipes.brain_mri.volume import centred_affine

SHAPE = (24, 24, 16)
AFFINE = centred_affine(SHAPE, 8)
POINTS = grid_points(AFFINE, SHAPE)


def jacobian(points, voxel):
    columns = np.stack([np.stack(np.gradient(each, voxel)) for each in points])
    return np.linalg.det(np.moveaxis(columns, (0, 1), (-2, -1)))


def test_fields_have_unit_variance_wherever_a_voxel_lies_between_knots():
    rng = np.random.default_rng(0)
    fields = spline_field(rng, 800, (9, 6, 5), 3)
    assert abs(fields.mean()) < 0.02
    assert np.abs(fields.var(0) - 1).max() < 0.25  # 800 draws: five standard errors
    assert abs(fields.var() - 1) < 0.05


def test_fields_are_smooth():
    field = spline_field(np.random.default_rng(1), 1, (65, 9, 9), 5)[0]
    assert np.abs(np.diff(field, 2, axis=0)).max() < 0.1 * np.abs(np.diff(field, axis=0)).max() * 5
    assert np.abs(np.diff(field, axis=0)).max() < 0.5


def test_subject_maps_do_not_fold_and_differ_between_subjects():
    maps = [subject_map(np.random.default_rng(seed), POINTS, np.zeros(3)) for seed in range(4)]
    for each in maps:
        assert jacobian(each, 8).min() > 0.3
        assert 0.5 < np.abs(each - POINTS).mean() < 15
    assert np.abs(maps[0] - maps[1]).max() > 1


def test_sampling_agrees_with_scipy():
    rng = np.random.default_rng(0)
    fields = rng.random((2, *SHAPE), dtype=np.float32)
    points = POINTS + rng.normal(0, 12, POINTS.shape).astype(np.float32)
    inverse = np.linalg.inv(AFFINE)
    indices = np.einsum("ab,bxyz->axyz", inverse[:3, :3], points) + inverse[:3, 3][:, None, None, None]
    wanted = [ndimage.map_coordinates(each, indices, order=1, mode="nearest") for each in fields]
    assert np.allclose(sample(fields, AFFINE, points), wanted, atol=2e-4)


def test_mass_effect_pushes_outwards_fades_away_and_spares_the_skull():
    depth = np.full(SHAPE, 40, np.float32)
    depth[:2] = 0
    centre = np.zeros(3, np.float32)
    origin = mass_effect(POINTS, centre, 30.0, 10.0, 15.0, depth)
    moved = np.sqrt(((origin - POINTS) ** 2).sum(0))
    distance = np.sqrt((POINTS**2).sum(0))
    assert (np.sqrt((origin**2).sum(0)) <= distance + 1e-3).all()  # tissue came from nearer the centre
    assert moved[np.abs(distance - 30) < 5].mean() > 5
    assert moved[distance > 110].max() < 0.1
    assert moved[:2].max() < 1e-3
    assert jacobian(origin, 8)[4:-4, 4:-4, 4:-4].min() > 0


@pytest.mark.parametrize("push", [-1.0, 15.0, 40.0])
def test_a_push_that_folds_is_refused(push):
    with pytest.raises(ValueError, match="folds"):
        mass_effect(POINTS, np.zeros(3, np.float32), 30.0, push, 15.0, np.ones(SHAPE, np.float32))
