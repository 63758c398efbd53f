import numpy as np
import pytest
import torch

from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.relion import read_relion, write_relion
from recipes.cryo_em.stack import write_mrcs
from tests.recipes.cryo_em.sets import assert_same, random_particles

pytest.importorskip("mrcfile")


@pytest.fixture
def folder(tmp_path):
    write_mrcs(tmp_path / "p.mrcs", random_particles().images, 2.5)
    return tmp_path


@pytest.mark.parametrize("version", ["3.0", "3.1"])
@pytest.mark.parametrize("with_ctf", [True, False])
def test_what_is_written_is_read(folder, version, with_ctf):
    particles = random_particles(with_ctf=with_ctf)
    write_relion(folder / "p.star", particles, "p.mrcs", version)
    found = read_relion(folder / "p.star")
    assert_same(found, particles)
    assert torch.equal(found.images[:], particles.images[:])
    assert found.half is None


def test_version_30_keeps_microscopes_apart_and_31_refuses_them(folder):
    voltage = torch.tensor([200.0] * 3 + [300.0] * 4)
    particles = random_particles()
    values = dict(particles.ctf.items()) | {"voltage": voltage}
    mixed = type(particles)(
        particles.images,
        particles.rotations,
        particles.shifts,
        CTFParameters(**values),
        2.5,
        half=torch.arange(7) % 2 + 1,
    )
    write_relion(folder / "p.star", mixed, "p.mrcs", "3.0")
    assert_same(read_relion(folder / "p.star"), mixed)
    assert read_relion(folder / "p.star").half.tolist() == [1, 2, 1, 2, 1, 2, 1]
    with pytest.raises(ValueError, match="rlnVoltage differs"):
        write_relion(folder / "p.star", mixed, "p.mrcs", "3.1")
    with pytest.raises(ValueError, match=r"3\.0 or 3\.1"):
        write_relion(folder / "p.star", mixed, "p.mrcs", "2")


GROUPS = """
data_optics
loop_
_rlnOpticsGroup
_rlnVoltage
_rlnSphericalAberration
_rlnAmplitudeContrast
_rlnImagePixelSize
_rlnImageSize
{extra_labels}
2 200 2.0 0.07 2.5 8 {extra}
1 300 2.7 0.1 2.5 8 {extra}

data_particles
loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnDefocusU
_rlnDefocusV
_rlnDefocusAngle
_rlnOpticsGroup
{labels}
3@p.mrcs 90 0 0  5 -2.5 15000 14000 30 1 {more}
000001@p.mrcs 0 90 0  0 0 16000 14000 30 2 {more}
"""


def write_groups(folder, **parts):
    text = GROUPS.format(**{"extra_labels": "", "extra": "", "labels": "", "more": "", **parts})
    (folder / "g.star").write_text(text)
    return folder / "g.star"


def test_optics_groups_origins_and_places_in_the_stack_mean_what_relion_means(folder):
    found = read_relion(write_groups(folder))
    assert found.ctf.voltage.tolist() == [300.0, 200.0]
    assert found.ctf.cs.tolist() == pytest.approx([2.7, 2.0])
    assert found.ctf.amplitude_contrast.tolist() == pytest.approx([0.1, 0.07])
    # The origin is the shift that centres: content lies the other way, in pixels of 2.5 Angstrom.
    assert found.shifts.tolist() == [[-2.0, 1.0], [0.0, 0.0]]
    assert torch.equal(found.images[:], random_particles().images[[2, 0]])
    # rot turns the particle about its z: what lies along y comes to lie along the camera's x.
    assert torch.allclose(found.rotations[0] @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)
    # After a tilt of 90 degrees one looks along the particle's x.
    assert torch.allclose(found.rotations[1][2], torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


@pytest.mark.parametrize(
    ("where", "label", "value", "message"),
    [
        ("optics", "rlnMagMat00", "1.01", "rlnMagMat00 asks for a correction"),
        ("optics", "rlnBeamTiltX", "0.3", "rlnBeamTiltX asks"),
        ("optics", "rlnEvenZernike", "[0,0,12.5]", "rlnEvenZernike asks"),
        ("optics", "rlnOddZernike", "[1,0]", "rlnOddZernike asks"),
        ("particles", "rlnCtfScalefactor", "0.5", "rlnCtfScalefactor asks"),
        ("optics", "rlnCtfDataAreCtfPremultiplied", "1", "multiplied by their CTF"),
        ("optics", "rlnImageDimensionality", "3", "subtomograms"),
        ("particles", "rlnTomoName", "ts_01", "tilt series"),
    ],
)
def test_columns_of_relion_5_that_change_the_image_are_refused(folder, where, label, value, message):
    names = ("extra_labels", "extra") if where == "optics" else ("labels", "more")
    path = write_groups(folder, **dict(zip(names, (f"_{label}", value), strict=True)))
    with pytest.raises(ValueError, match=message):
        read_relion(path)
    if "asks" in message:
        assert len(read_relion(path, ignore_aberrations=True)) == 2


@pytest.mark.parametrize(
    ("label", "value"),
    [("rlnMagMat00", "1.0"), ("rlnMagMat01", "0"), ("rlnBeamTiltY", "0.0"), ("rlnEvenZernike", "[0,0]"),
     ("rlnCtfDataAreCtfPremultiplied", "0"), ("rlnImageDimensionality", "2")],
)  # fmt: skip
def test_the_same_columns_saying_nothing_are_read(folder, label, value):
    assert len(read_relion(write_groups(folder, extra_labels=f"_{label}", extra=value))) == 2


def test_b_factors_phase_shifts_and_halves_are_honoured(folder):
    labels = "_rlnCtfBfactor\n_rlnPhaseShift\n_rlnRandomSubset"
    found = read_relion(write_groups(folder, labels=labels, more="55 90 2"))
    assert found.ctf.b_factor.tolist() == [55.0, 55.0]
    assert found.ctf.phase_shift.tolist() == [90.0, 90.0]
    assert found.half.tolist() == [2, 2]


def test_images_are_found_from_the_projects_folder_or_datadir(folder):
    deep = folder / "Refine3D" / "job005"
    deep.mkdir(parents=True)
    (deep / "g.star").write_text(write_groups(folder).read_text())
    assert len(read_relion(deep / "g.star")) == 2
    assert len(read_relion(deep / "g.star", datadir=folder)) == 2
    with pytest.raises(ValueError, match=r"no images p\.mrcs at .*datadir"):
        read_relion(deep / "g.star", datadir=deep)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3@p.mrcs", "8@p.mrcs", r"image 8 \(from 1\)"),
        ("3@p.mrcs", "x@p.mrcs", r"g\.star:\d+: image name 'x@p.mrcs'"),
        ("_rlnAnglePsi", "_rlnOther", "no column _rlnAnglePsi"),
        ("_rlnVoltage", "_rlnOther", "no column _rlnVoltage"),
        ("_rlnDefocusAngle", "_rlnOther", "no column _rlnDefocusAngle"),
        ("2.5 8 \n1", "2.4 8 \n1", "pixel sizes from 2.4 to 2.5"),
        ("2.5 8 \n1", "2.5 16 \n1", "optics say images of"),
        (" 30 2 ", " 30 7 ", r"optics group 7 is not in"),
        ("15000", "many", r"_rlnDefocusU is 'many'"),
        ("300 2.7", "-1 2.7", "voltage is not positive"),
    ],
)
def test_what_is_wrong_is_said(folder, old, new, message):
    path = write_groups(folder)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_relion(path)


def test_a_pixel_size_comes_from_old_columns_or_the_header_or_is_missed(folder):
    body = "data_\nloop_\n_rlnImageName\n_rlnAngleRot\n_rlnAngleTilt\n_rlnAnglePsi\n{labels}\n1@{name} 1 2 3 {values}\n"
    path = folder / "old.star"
    path.write_text(body.format(labels="_rlnDetectorPixelSize\n_rlnMagnification", name="p.mrcs", values="5.0 10000"))
    assert read_relion(path).pixel_size == pytest.approx(5.0)
    path.write_text(body.format(labels="", name="p.mrcs", values=""))
    found = read_relion(path)
    assert found.pixel_size == pytest.approx(2.5)
    assert found.ctf is None
    assert found.shifts.tolist() == [[0.0, 0.0]]
    import mrcfile

    with mrcfile.new(folder / "q.mrcs", np.ones((1, 4, 4), np.float32)) as opened:
        opened.voxel_size = 0
    path.write_text(body.format(labels="", name="q.mrcs", values=""))
    with pytest.raises(ValueError, match="no pixel size"):
        read_relion(path)


def test_tables_that_are_no_particles_are_refused(folder):
    (folder / "a.star").write_text("data_a\n_x 1\ndata_b\n_x 1\n")
    with pytest.raises(ValueError, match="data_particles is expected"):
        read_relion(folder / "a.star")
    (folder / "b.star").write_text("data_particles\nloop_\n_rlnImageName\n")
    with pytest.raises(ValueError, match="no rows"):
        read_relion(folder / "b.star")
