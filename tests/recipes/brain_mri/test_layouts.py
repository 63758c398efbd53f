from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.brain_mri.layouts import Scan, find_scans, read_table


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def relative(scans, root):
    def short(path):
        return None if path is None else path.relative_to(root).as_posix()

    return [(scan.name, short(scan.image), short(scan.mask), short(scan.seg)) for scan in scans]


def test_ixi(tmp_path):
    touch(tmp_path, "IXI002-Guys-0828-T2.nii.gz", "IXI012-HH-1211-T2.nii.gz", "IXI012-HH-1211-T1.nii.gz", "notes.txt")
    assert relative(find_scans(tmp_path, contrast="t2"), tmp_path) == [
        ("IXI002-Guys-0828", "IXI002-Guys-0828-T2.nii.gz", None, None),
        ("IXI012-HH-1211", "IXI012-HH-1211-T2.nii.gz", None, None),
    ]


def test_ixi_with_masks_apart(tmp_path):
    touch(
        tmp_path, "t2/IXI002-Guys-0828-T2.nii.gz", "mask/IXI002-Guys-0828-T2_mask.nii.gz", "mask/IXI999-x-mask.nii.gz"
    )
    found = find_scans(tmp_path / "t2", tmp_path / "mask", contrast="t2")
    assert relative(found, tmp_path) == [
        ("IXI002-Guys-0828", "t2/IXI002-Guys-0828-T2.nii.gz", "mask/IXI002-Guys-0828-T2_mask.nii.gz", None)
    ]


@pytest.mark.parametrize(
    ("flair", "t2", "seg"),
    [("_flair.nii.gz", "_t2.nii.gz", "_seg.nii.gz"), ("-t2f.nii.gz", "-t2w.nii.gz", "-seg.nii.gz")],
    ids=["2021", "2023"],
)
def test_brats(tmp_path, flair, t2, seg):
    for patient in ("BraTS2021_00000", "BraTS2021_00002"):
        touch(tmp_path, *(f"{patient}/{patient}{end}" for end in (flair, t2, seg, "_t1ce.nii.gz", "_t1.nii.gz")))
    for contrast, end in (("flair", flair), ("t2", t2)):
        found = relative(find_scans(tmp_path, contrast=contrast), tmp_path)
        assert found == [
            (p.replace("_", "-"), f"{p}/{p}{end}", None, f"{p}/{p}{seg}")
            for p in ("BraTS2021_00000", "BraTS2021_00002")
        ]


@pytest.mark.parametrize("prefix", ["", "patient01_"])
def test_mslub(tmp_path, prefix):
    ends = ("FLAIR", "T1W", "T1WKS", "T2W", "brainmask", "consensus_gt")
    touch(tmp_path, *(f"patient01/{prefix}{end}.nii.gz" for end in ends))
    (scan,) = relative(find_scans(tmp_path, contrast="t2"), tmp_path)
    at = f"patient01/{prefix}"
    assert scan == ("patient01", f"{at}T2W.nii.gz", f"{at}brainmask.nii.gz", f"{at}consensus_gt.nii.gz")


def test_a_folder_of_one_contrast_needs_no_word_for_it(tmp_path):
    touch(tmp_path, "images/a.nii", "images/b.nii.gz", "labels/a.nii", "labels/b.nii.gz")
    found = find_scans(tmp_path / "images", segs=tmp_path / "labels", contrast="t1")
    assert [(scan.name, scan.seg.name) for scan in found] == [("a", "a.nii"), ("b", "b.nii.gz")]


def test_t2_flair_is_flair(tmp_path):
    touch(tmp_path, "s1_T2_FLAIR.nii.gz", "s1_T2.nii.gz")
    assert find_scans(tmp_path, contrast="flair")[0].image.name == "s1_T2_FLAIR.nii.gz"
    assert find_scans(tmp_path, contrast="t2")[0].image.name == "s1_T2.nii.gz"


def test_one_file(tmp_path):
    touch(tmp_path, "me.nii.gz", "brain.nii.gz")
    assert find_scans(tmp_path / "me.nii.gz", tmp_path / "brain.nii.gz") == [
        Scan("me", tmp_path / "me.nii.gz", tmp_path / "brain.nii.gz")
    ]


@pytest.mark.parametrize(
    ("files", "options", "says"),
    [
        ([], {}, "no image of contrast flair; there are: no NIfTI image"),
        (["a_t1.nii", "b_t1.nii", "b_t2.nii"], {}, "there are: 2 t1, 1 t2"),
        (["x/a_flair.nii", "x/a_flair.nii.gz"], {}, "same scan"),
        (["a_flair.nii", "m/b_mask.nii"], {"masks": "m"}, "a_flair.nii: .*has no mask"),
        (["a_flair.nii", "s/b_seg.nii"], {"segs": "s"}, "a_flair.nii: .*has no lesions"),
        (["a_flair.nii"], {"masks": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_bad_folders(tmp_path, files, options, says):
    touch(tmp_path, *files)
    with pytest.raises(ValueError, match=says):
        find_scans(tmp_path, **{name: tmp_path / value for name, value in options.items()})


def test_no_such_folder_and_no_such_kind_of_file(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="neither a folder"):
        find_scans(touch(tmp_path, "scan.mgz") / "scan.mgz")


def test_table_of_pddpm(tmp_path):
    touch(tmp_path, "Train/ixi/t2/a_t2.nii.gz", "Train/ixi/mask/a_mask.nii.gz", "b.nii")
    table = tmp_path / "fold0.csv"
    table.write_text(
        ",img_name,age,label,img_path,mask_path,seg_path\n"
        "0,a_t2.nii.gz,55.8,0,/Train/ixi/t2/a_t2.nii.gz,/Train/ixi/mask/a_mask.nii.gz,\n"
        f"1,,,1,b.nii,nan,{tmp_path / 'b.nii'}\n"
    )
    assert relative(find_scans(table), tmp_path) == [
        ("a_t2", "Train/ixi/t2/a_t2.nii.gz", "Train/ixi/mask/a_mask.nii.gz", None),
        ("b", "b.nii", None, "b.nii"),
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("path,seg\n1,2\n", ":1: no column img_path; there are: path, seg"),
        ("", ":1: no column img_path; there are: none"),
        ("img_path\n", "no rows"),
        ("img_path,mask_path\na.nii,\n\n,a.nii\n", ":4: img_path is empty"),
        ("img_path\na.nii\nb.nii\n", ":3: img_path b.nii: no such file"),
        ("img_path,seg_path\na.nii,c.nii\n", ":2: seg_path c.nii: no such file"),
        ("img_path\na.nii\na.nii\n", ":3: a is in line 2 already"),
    ],
)
def test_bad_tables_name_the_line(tmp_path, text, says):
    touch(tmp_path, "a.nii")
    table = tmp_path / "t.csv"
    table.write_text(text)
    with pytest.raises(ValueError, match=rf"t\.csv.*{says}"):
        read_table(table)


def test_folders_beside_a_table_are_refused(tmp_path):
    touch(tmp_path, "t.csv")
    with pytest.raises(ValueError, match="give no folders"):
        find_scans(tmp_path / "t.csv", tmp_path)


@given(st.one_of(st.binary(max_size=200), st.text(max_size=400).map(lambda text: f"img_path,x\n{text}".encode())))
def test_any_table_that_names_no_file_says_so(tmp_path_factory, content):
    table = Path(tmp_path_factory.mktemp("tables", numbered=True)) / "t.csv"
    table.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.csv"):
        read_table(table)
