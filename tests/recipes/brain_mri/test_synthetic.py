import numpy as np
import pytest
from scipy import ndimage

from recipes.brain_mri.anatomy import _with_ventricles, ellipsoid, mni152
from recipes.brain_mri.contrast import CONTRASTS, draw_look, scan, smooth_noise, tissue_signal
from recipes.brain_mri.lesions import draw_plaques, largest_component
from recipes.brain_mri.synthetic import SyntheticBrains

ANATOMY = ellipsoid(48)
SIZE = 40


@pytest.fixture(scope="module")
def brains():
    return SyntheticBrains(ANATOMY, SIZE, "flair", noise=0.02, seed=3)


def real(contrast="flair", **options):
    pytest.importorskip("nilearn", reason="the MNI152 maps are nilearn's")
    return SyntheticBrains(mni152(), 48, contrast, **options)


@pytest.mark.parametrize("lesion", [None, "tumour", "ms"])
def test_a_subject_is_a_pure_function_of_its_number(brains, lesion):
    volume, again = brains.volume(4, lesion), SyntheticBrains(ANATOMY, SIZE, "flair", 0.02, 3).volume(4, lesion)
    assert volume.image.shape == (40, 40, 21)
    for name in ("image", "mask", "seg", "healthy"):
        assert np.array_equal(getattr(volume, name), getattr(again, name))
    assert not np.array_equal(volume.image, brains.volume(5, lesion).image)
    assert not np.array_equal(volume.image, SyntheticBrains(ANATOMY, SIZE, "flair", 0.02, 4).volume(4, lesion).image)
    assert volume.seg.any() == (lesion is not None)
    assert not volume.image[~volume.mask].any()


def test_a_healthy_subject_is_its_own_counterpart(brains):
    volume = brains.volume(1)
    assert np.array_equal(volume.image, volume.healthy)


def test_plaques_change_nothing_but_themselves_and_their_edges(brains):
    volume = brains.volume(2, "ms")
    near = ndimage.binary_dilation(volume.seg, np.ones((3, 3, 3)), iterations=4)  # two blurs reach so far
    assert np.array_equal(volume.image[~near], volume.healthy[~near])
    assert (volume.image - volume.healthy)[volume.seg].mean() > 0.1
    assert np.array_equal(volume.mask, brains.volume(2).mask)


def test_a_tumour_moves_its_surroundings_but_not_the_far_side(brains):
    for subject in range(3):
        volume = brains.volume(subject, "tumour")
        distance = ndimage.distance_transform_edt(~volume.seg, sampling=192 / SIZE)
        change = np.abs(volume.image - volume.healthy)
        assert change[volume.mask & (distance > 0) & (distance < 12)].mean() > 0.01
        assert change[distance > 100].max(initial=0) < 0.02
        assert (volume.mask != brains.volume(subject).mask).mean() < 0.02
        assert ndimage.label(volume.seg, np.ones((3, 3, 3)))[1] <= 2  # one, unless cut at the edge of the slices


def test_a_subject_has_one_lesion_in_every_contrast():
    flair, t2 = (SyntheticBrains(ANATOMY, SIZE, contrast).volume(0, "tumour") for contrast in ("flair", "t2"))
    assert np.array_equal(flair.seg, t2.seg)
    assert not np.array_equal(flair.image, t2.image)


def test_more_noise_is_more_noise():
    none, quiet, loud = (SyntheticBrains(ANATOMY, SIZE, "t1", noise).volume(0) for noise in (0.0, 0.01, 0.1))
    quieter, louder = ((each.image - none.image)[none.mask].std() for each in (quiet, loud))
    assert 0.005 < quieter < 0.03
    assert 5 * quieter < louder < 15 * quieter


@pytest.mark.parametrize("wrong", [{"contrast": "pd"}, {"size": 8}, {"noise": -0.1}])
def test_wrong_options_are_refused(wrong):
    with pytest.raises(ValueError, match=r"^(contrast|size|noise) is"):
        SyntheticBrains(ANATOMY, **wrong)


def test_an_unknown_lesion_is_refused(brains):
    with pytest.raises(ValueError, match="stroke"):
        brains.volume(0, "stroke")


def test_no_ventricles_no_anatomy():
    with pytest.raises(ValueError, match="no ventricles"):
        _with_ventricles(np.zeros((3, 8, 8, 8), np.float32), np.eye(4))


def test_distance_to_ventricles_is_zero_in_them():
    deep = ANATOMY.fractions[0][22:26, 20:28, 12]  # the ventricles' middle, beside the midline
    near = ANATOMY.ventricle_mm[22:26, 20:28, 12]
    assert near[deep > 0.9].max(initial=0) == 0
    assert ANATOMY.ventricle_mm[24, 4, 12] > 30


def test_plaques_lie_in_white_matter_and_mostly_around_ventricles():
    rng = np.random.default_rng(0)
    points = np.indices(ANATOMY.ventricle_mm.shape).astype(np.float32) * ANATOMY.voxel
    white = ANATOMY.fractions[2]
    depth = ndimage.distance_transform_edt(ANATOMY.fractions.sum(0) > 0.5, sampling=ANATOMY.voxel).astype(np.float32)
    plaques = [plaque for _ in range(20) for plaque in draw_plaques(rng, points, white, ANATOMY.ventricle_mm, depth)]
    assert 20 * 8 <= len(plaques) <= 20 * 30
    assert all(plaque.any() for plaque in plaques)
    distances = np.array([ANATOMY.ventricle_mm[plaque].min() for plaque in plaques])
    assert np.mean(distances < 12) > 0.6
    assert np.mean(ANATOMY.ventricle_mm[white > 0.7] < 12) < 0.4  # chance would not have done it


def test_plaques_without_white_matter_are_refused():
    nothing = np.zeros((4, 4, 4), np.float32)
    with pytest.raises(ValueError, match="no white matter"):
        draw_plaques(np.random.default_rng(0), np.zeros((3, 4, 4, 4), np.float32), nothing, nothing, nothing)


def test_largest_component():
    flags = np.zeros((6, 6, 6), bool)
    flags[0, 0, 0] = flags[3:5, 3:5, 3] = True
    assert largest_component(flags).sum() == 4
    assert not largest_component(np.zeros_like(flags)).any()


def test_noise_is_rician_and_of_the_asked_level():
    shape = (30, 30, 30)
    look = draw_look(np.random.default_rng(0), CONTRASTS["t2"], shape, 2.0, 0.05)
    level = look.noise.std()
    assert 0.75 * 0.05 * 0.98 < level < 1.5 * 0.05 * 1.02
    background = scan(look, np.zeros(shape, np.float32))
    assert background.mean() == pytest.approx(level * np.sqrt(np.pi / 2), rel=0.02)  # Rayleigh


def test_tissues_look_as_in_textbooks():
    template = np.full((3, 2, 2, 2), 60, np.float32)  # away from every special region
    deep = np.full((2, 2, 2), 40, np.float32)
    order = {}
    for name, contrast in CONTRASTS.items():
        look = draw_look(np.random.default_rng(0), contrast, (2, 2, 2), 2.0, 0.0)
        look.mottle[:] = 1
        values = [
            tissue_signal(
                look, np.repeat(np.eye(3, dtype=np.float32)[tissue], 8).reshape(3, 2, 2, 2), template, deep
            ).mean()
            for tissue in range(3)
        ]
        order[name] = "".join(np.array(list("CGW"))[np.argsort(values)])
    assert order == {"t1": "CGW", "t2": "WGC", "flair": "CWG"}


def test_smooth_noise_has_unit_variance():
    noise = smooth_noise(np.random.default_rng(0), (20, 20, 20), 1.5)
    assert noise.std() == pytest.approx(1, abs=1e-5)
    assert np.corrcoef(noise[1:].ravel(), noise[:-1].ravel())[0, 1] > 0.8


@pytest.mark.parametrize(
    ("contrast", "ratio", "mean"), [("flair", (1.15, 1.7), (0.55, 0.75)), ("t2", (1.6, 2.6), (0.2, 0.4))]
)
def test_real_anatomy_gives_the_intended_ratios(contrast, ratio, mean):
    brains = real(contrast)
    volumes = [brains.volume(subject, "tumour") for subject in range(4)]
    found = np.mean([v.image[v.seg].mean() / v.image[v.mask & ~v.seg].mean() for v in volumes])
    assert ratio[0] < found < ratio[1]
    assert mean[0] < np.mean([v.healthy[v.mask].mean() for v in volumes]) < mean[1]
    assert 0.005 < np.mean([v.seg.sum() / v.mask.sum() for v in volumes]) < 0.06


def test_real_anatomy_is_a_brain():
    anatomy = real().anatomy
    litres = anatomy.fractions.sum((1, 2, 3)) * anatomy.voxel**3 / 1e6
    assert litres.sum() == pytest.approx(1.9, abs=0.3)  # the MNI152 average is larger than most brains
    assert np.abs(anatomy.centre[0]) < 3
    assert 0.005 < (anatomy.ventricle_mm == 0).sum() * anatomy.voxel**3 / 1e6 < 0.06
