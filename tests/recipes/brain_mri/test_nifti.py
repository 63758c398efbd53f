import gzip
from dataclasses import replace

import numpy as np
import pytest

from recipes.brain_mri.layouts import Scan
from recipes.brain_mri.nifti import NiftiFolder, read_scan, write_map
from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.preprocess import working_affine

nibabel = pytest.importorskip("nibabel", reason="NIfTI files need nibabel")

AFFINE = np.array([[4.0, 0, 0, -70], [0, 4, 0, -80], [0, 0, 4, -50], [0, 0, 0, 1]])
VOLUME = phantom(3, 48, "flair", "tumour")


def save(path, values, affine=AFFINE, kind=nibabel.Nifti1Image):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(kind(np.asarray(values), affine), path)
    return path


@pytest.fixture
def case(tmp_path):
    """A patient: image, mask, lesions, at 4 mm."""
    return Scan(
        "p",
        save(tmp_path / "p_flair.nii.gz", VOLUME.image * 800),
        save(tmp_path / "p_mask.nii.gz", VOLUME.mask.astype(np.uint8)),
        save(tmp_path / "p_seg.nii.gz", (VOLUME.seg * 4).astype(np.uint8)),
    )


def test_a_scan_becomes_a_volume(case):
    volume = read_scan(case, 48, "tumour")
    assert volume.image.shape == (48, 48, 25)
    assert np.allclose(np.abs(volume.affine[:3, :3]), np.diag([4, 4, 4]))
    assert volume.seg.sum() == pytest.approx(VOLUME.seg.sum(), rel=0.2)
    assert volume.mask.sum() == pytest.approx(VOLUME.mask.sum(), rel=0.1)
    assert volume.source == case.image
    assert volume.lesion == "tumour"
    # the same millimetre shows the same tissue
    centre = np.argwhere(volume.seg).mean(0)
    wanted = AFFINE @ [*np.argwhere(VOLUME.seg).mean(0), 1]
    assert np.allclose((volume.affine @ [*centre, 1])[:3], wanted[:3], atol=2)


def test_without_files_for_them_the_mask_is_what_is_above_zero_and_there_are_no_lesions(case):
    with_mask, without = read_scan(case, 48), read_scan(Scan("p", case.image), 48)
    assert (with_mask.mask != without.mask).mean() < 0.01
    assert without.seg is None


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA", "ASR"])
def test_any_orientation_reads_alike_and_maps_go_back_to_it(case, tmp_path, codes):
    turn = nibabel.orientations.axcodes2ornt(tuple(codes))
    files = []
    for path in (case.image, case.mask, case.seg):
        image = nibabel.load(path).as_reoriented(turn_from_ras(turn))
        files.append(tmp_path / codes / path.name)
        files[-1].parent.mkdir(exist_ok=True)
        nibabel.save(image, files[-1])
    assert nibabel.aff2axcodes(nibabel.load(files[0]).affine) == tuple(codes)
    upright, turned = read_scan(case, 48), read_scan(Scan("p", *files), 48)
    assert np.allclose(upright.image, turned.image, atol=1e-4)
    assert np.array_equal(upright.seg, turned.seg)
    written = nibabel.load(write_map(turned, turned.seg, tmp_path / "map.nii.gz"))
    source = nibabel.load(files[0])
    assert written.shape == source.shape
    assert np.array_equal(written.affine, source.affine)
    there, wanted = np.asarray(written.dataobj) > 0, np.asarray(nibabel.load(files[2]).dataobj) > 0
    assert 2 * (there & wanted).sum() / (there.sum() + wanted.sum()) > 0.8


def turn_from_ras(orientation):
    return nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt(("R", "A", "S")), orientation)


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_written_maps_keep_affine_shape_and_codes_and_open_identically(tmp_path, kind):
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(np.eye(3) + 0.1 * rng.standard_normal((3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.sign(np.diag(rotation)) * [3.7, 4.1, 5.3]
    affine[:3, 3] = 11.1, -7.7, 3.3
    image = kind(VOLUME.image * 900, affine)
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a name"))
    path = tmp_path / "odd.nii.gz"
    nibabel.save(image, path)
    source = nibabel.load(path)
    volume = read_scan(Scan("odd", path), 32)
    for values, dtype in ((volume.image, np.float32), (volume.mask, np.uint8)):
        written = nibabel.load(write_map(volume, values, tmp_path / "deep" / "map.nii"))
        assert type(written) is kind
        assert written.get_data_dtype() == dtype
        assert written.shape == source.shape
        assert np.array_equal(written.affine, source.affine)
        for name in ("sform_code", "qform_code", "xyzt_units", "pixdim"):
            assert np.array_equal(written.header[name], source.header[name])
        assert not written.header.extensions
        again = nibabel.load(write_map(volume, values, tmp_path / "again.nii"))
        assert np.array_equal(written.get_fdata(), again.get_fdata())
    fine = read_scan(Scan("odd", path), 96)
    seen = nibabel.load(write_map(fine, fine.image, tmp_path / "map.nii")).get_fdata()
    inside = VOLUME.mask & (seen > 0)
    aligned, *shifted = (
        np.corrcoef(np.roll(seen, shift, axis)[inside], VOLUME.image[inside])[0, 1]
        for shift, axis in ((0, 0), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, 2), (-1, 2))
    )
    assert aligned > 0.9
    assert aligned > max(shifted) + 0.1


def test_maps_agree_with_a_voxel_by_voxel_look_up(case, tmp_path):
    volume = read_scan(case, 32)
    written = np.asarray(nibabel.load(write_map(volume, volume.mask, tmp_path / "map.nii")).dataobj)
    back = np.linalg.inv(volume.affine) @ volume.native.affine
    rng = np.random.default_rng(0)
    for voxel in rng.integers(0, written.shape, (200, 3)):
        place = back @ [*voxel, 1]
        near = np.rint(place[:3]).astype(int)
        if np.abs(place[:3] - near).max() < 0.45:  # a tie may go either way
            inside = (near >= 0).all() and (near < volume.mask.shape).all()
            assert written[tuple(voxel)] == (inside and volume.mask[tuple(near)])


def test_a_simulated_volume_has_its_own_grid(tmp_path):
    written = nibabel.load(write_map(VOLUME, VOLUME.image, tmp_path / "map.nii.gz"))
    assert np.array_equal(written.get_fdata(dtype=np.float32), VOLUME.image)
    assert np.allclose(written.affine, VOLUME.affine)


@pytest.mark.parametrize(
    ("values", "name", "says"),
    [
        (VOLUME.image[:5], "a.nii", "shape"),
        (VOLUME.image + np.float32(np.inf), "a.nii", "not finite"),
        (VOLUME.image, "a.png", "ends in"),
    ],
)
def test_maps_that_do_not_fit_are_refused(tmp_path, values, name, says):
    with pytest.raises(ValueError, match=says):
        write_map(VOLUME, values, tmp_path / name)


def test_a_series_of_one_is_a_volume_and_more_are_refused(case, tmp_path):
    single = save(tmp_path / "one.nii.gz", VOLUME.image[..., None] * 800)
    assert np.allclose(read_scan(Scan("p", single), 48).image, read_scan(Scan("p", case.image), 48).image)
    for shape in ((6, 6, 6, 3), (6, 6)):
        path = save(tmp_path / "bad.nii.gz", np.ones(shape, np.float32))
        with pytest.raises(ValueError, match=r"bad.nii.gz: has shape .*3-D"):
            read_scan(Scan("p", path))


def holed(value):
    image = VOLUME.image * 800
    image[3, 4, 5] = value
    return image


@pytest.mark.parametrize(
    ("role", "values", "affine", "says"),
    [
        ("image", holed(np.nan), AFFINE, "1 voxels are NaN"),
        ("image", holed(np.inf), AFFINE, "1 voxels are NaN or infinite"),
        ("image", np.ones_like(VOLUME.image), AFFINE, "100 % of the voxels"),
        ("image", np.zeros_like(VOLUME.image), AFFINE, "mask is empty"),
        ("image", VOLUME.mask.astype(np.float32), AFFINE, "both 1: nothing to rescale"),
        ("mask", np.ones((5, 6, 7), np.uint8), AFFINE, r"mask of shape \(5, 6, 7\)"),
        ("mask", np.zeros(VOLUME.mask.shape, np.uint8), AFFINE, "mask is empty"),
        ("seg", VOLUME.seg.astype(np.uint8), AFFINE + np.diag([0.5, 0, 0, 0]), "lesions lie up to 23.5 mm off"),
    ],
)  # fmt: skip
def test_bad_files_are_named_with_what_is_wrong(case, tmp_path, role, values, affine, says):
    path = save(tmp_path / "wrong.nii.gz", values, affine)
    scan = replace(case, **{role: path}) if role != "image" else Scan("p", path)
    with pytest.raises(ValueError, match=rf"wrong.nii.gz: .*{says}"):
        read_scan(scan, 48)


def test_a_lesion_map_half_a_millimetre_off_is_taken(case, tmp_path):
    shifted = AFFINE.copy()
    shifted[0, 3] += 0.4
    path = save(tmp_path / "gt.nii.gz", VOLUME.seg.astype(np.uint8), shifted)
    assert read_scan(replace(case, seg=path), 48).seg.any()


def test_files_that_are_no_nifti(tmp_path, case):
    text = tmp_path / "text.nii"
    text.write_text("not an image")
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes(case.image.read_bytes()[:3000])
    short = tmp_path / "short.nii"
    short.write_bytes(gzip.decompress(case.image.read_bytes())[:-100])
    for path in (text, cut, short, tmp_path / "none.nii"):
        with pytest.raises(ValueError, match=path.name):
            read_scan(Scan("p", path))


def test_singular_affines_are_refused(tmp_path):
    image = nibabel.Nifti1Image(VOLUME.image, None)
    image.header.set_sform(np.diag([1.0, 1, 0, 1]), code=1)
    path = tmp_path / "flat.nii"
    nibabel.save(nibabel.Nifti1Image(VOLUME.image, None, image.header), path)
    with pytest.raises(ValueError, match=r"flat.nii: its affine is not invertible"):
        read_scan(Scan("p", path))


def test_smoothing_smooths(case):
    plain, smooth = (read_scan(case, 48, smooth=flag).image for flag in (False, True))
    assert np.abs(np.diff(smooth, axis=0)).mean() < 0.95 * np.abs(np.diff(plain, axis=0)).mean()


def test_a_folder_reads_lazily_and_caches(case, tmp_path):
    cache = tmp_path / "cache"
    (tmp_path / "broken_flair.nii.gz").write_text("x")
    folder = NiftiFolder(tmp_path, size=48, lesion="tumour", cache=cache)
    assert [scan.name for scan in folder.scans] == ["broken", "p"]
    volume = folder[1]
    case.mask.touch()  # a newer file is another one
    assert len(list(cache.glob("*.npz"))) == 1
    again = NiftiFolder(tmp_path, size=48, lesion="tumour", cache=cache)[1]
    assert len(list(cache.glob("*.npz"))) == 2
    kept = NiftiFolder(tmp_path, size=48, lesion="tumour", cache=cache)[1]
    assert len(list(cache.glob("*.npz"))) == 2
    for other in (again, kept):
        assert np.array_equal(volume.image, other.image)
        assert other.native.shape == VOLUME.image.shape
        assert other.source == case.image
    with pytest.raises(ValueError, match="broken_flair"):
        folder[0]
    assert len(folder) == 2
    assert [each.name for each in folder[1:]] == ["p"]


def test_the_working_grid_has_the_axes_of_the_scan():
    mask = np.zeros((10, 10, 10), bool)
    mask[2:5, 3:6, 4:7] = True
    affine = working_affine(AFFINE, mask, 96)
    assert np.allclose(affine @ [47.5, 47.5, 24.5, 1], AFFINE @ [3, 4, 5, 1])
