import numpy as np
import pytest
import torch

from recipes.cryo_em.cryosparc import read_cryosparc, write_cryosparc
from recipes.cryo_em.stack import write_mrcs
from tests.recipes.cryo_em.sets import assert_same, random_particles

pytest.importorskip("mrcfile")
pytest.importorskip("roma")


@pytest.fixture
def folder(tmp_path):
    write_mrcs(tmp_path / "p.mrcs", random_particles().images, 2.5)
    write_cryosparc(tmp_path / "p.cs", random_particles(), "p.mrcs")
    return tmp_path


def rewritten(folder, drop=(), **fields):
    rows = np.load(folder / "p.cs")
    columns = {name: rows[name] for name in rows.dtype.names if name not in drop} | fields
    out = np.empty(len(rows), dtype=[(name, value.dtype, value.shape[1:]) for name, value in columns.items()])
    for name, value in columns.items():
        out[name] = value
    with (folder / "x.cs").open("wb") as file:
        np.save(file, out)
    return folder / "x.cs"


@pytest.mark.parametrize("with_ctf", [True, False])
def test_what_is_written_is_read(folder, with_ctf):
    particles = random_particles(with_ctf=with_ctf)
    write_cryosparc(folder / "q.cs", particles, "p.mrcs")
    found = read_cryosparc(folder / "q.cs")
    assert_same(found, particles)
    assert torch.equal(found.images[:], particles.images[:])


def test_a_pose_is_the_rotation_vector_of_the_inverse(folder):
    pose = np.tile(np.array([0, 0, np.pi / 2], np.float32), (7, 1))
    found = read_cryosparc(rewritten(folder, **{"alignments3D/pose": pose}))
    # exp(pose) takes x to y; R is its inverse.
    assert torch.allclose(found.rotations[0] @ torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 0.0, 0.0]), atol=1e-6)


def test_shifts_are_of_the_alignments_pixel_and_splits_are_halves(folder):
    more = {
        "alignments3D/psize_A": np.full(7, 5.0, np.float32),
        "alignments3D/shift": np.tile(np.array([1.0, -0.5], np.float32), (7, 1)),
        "alignments3D/split": np.array([0, 1, 0, 1, 0, 1, 1], np.uint32),
    }
    found = read_cryosparc(rewritten(folder, **more))
    assert found.shifts[0].tolist() == [-2.0, 1.0]
    assert found.half.tolist() == [1, 2, 1, 2, 1, 2, 2]


def test_a_passthrough_is_joined_by_uid_and_exported_paths_are_found(folder):
    rows = np.load(folder / "p.cs")
    with (folder / "through.cs").open("wb") as file:
        np.save(file, rows[::-1])
    bare = rewritten(folder, drop=[name for name in rows.dtype.names if name.startswith(("ctf/", "blob/"))])
    with pytest.raises(ValueError, match="no field blob/path; give its passthrough"):
        read_cryosparc(bare)
    assert_same(read_cryosparc(bare, passthrough=folder / "through.cs"), random_particles())
    with (folder / "through.cs").open("wb") as file:
        np.save(file, rows[:4])
    with pytest.raises(ValueError, match="lacks 3 particles"):
        read_cryosparc(bare, passthrough=folder / "through.cs")
    exported = rewritten(folder, **{"blob/path": np.full(7, b">p.mrcs", dtype="S7")})
    assert len(read_cryosparc(exported, datadir=folder)) == 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ctf/tilt_A": np.full((7, 2), 0.3, np.float32)}, "ctf/tilt_A asks for a correction"),
        ({"blob/psize_A": np.arange(1, 8, dtype=np.float32)}, "pixel sizes from 1 to 7"),
        ({"blob/idx": np.arange(3, 10, dtype=np.uint32)}, "was asked for; the file holds 7"),
        ({"alignments3D/shift": np.full((7, 2), np.nan, np.float32)}, "shift of row 0"),
    ],
)
def test_what_is_wrong_is_said(folder, fields, message):
    path = rewritten(folder, **fields)
    with pytest.raises(ValueError, match=message):
        read_cryosparc(path)
    if "asks" in message:
        assert len(read_cryosparc(path, ignore_aberrations=True)) == 7


@pytest.mark.parametrize("field", ["alignments3D/pose", "ctf/accel_kv", "blob/idx"])
def test_missing_fields_are_named(folder, field):
    with pytest.raises(ValueError, match=f"no field {field}"):
        read_cryosparc(rewritten(folder, drop=[field]))


def test_files_of_another_kind_are_refused(folder):
    (folder / "bad.cs").write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"bad\.cs: not a readable"):
        read_cryosparc(folder / "bad.cs")
    with (folder / "plain.cs").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(ValueError, match="no rows with named fields"):
        read_cryosparc(folder / "plain.cs")
