import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.cryo_em.cryodrgn_files import load_arrays, read_cryodrgn, write_ctf, write_poses
from recipes.cryo_em.ctf import CTFParameters
from recipes.cryo_em.stack import write_mrcs
from tests.recipes.cryo_em.sets import assert_same, random_particles

pytest.importorskip("mrcfile")


@pytest.fixture
def folder(tmp_path):
    particles = random_particles()
    write_mrcs(tmp_path / "p.mrcs", particles.images, 2.5)
    write_poses(tmp_path / "poses.pkl", particles)
    write_ctf(tmp_path / "ctf.pkl", particles)
    return tmp_path


def put(path, value):
    path.write_bytes(pickle.dumps(value))
    return path


def test_what_is_written_is_read(folder):
    found = read_cryodrgn(folder / "p.mrcs", folder / "poses.pkl", folder / "ctf.pkl")
    assert_same(found, random_particles())
    assert torch.equal(found.images[:], random_particles().images[:])


def test_the_files_are_laid_out_as_cryodrgn_lays_them(folder):
    particles = random_particles()
    with (folder / "poses.pkl").open("rb") as file:
        rotations, translations = pickle.load(file)
    with (folder / "ctf.pkl").open("rb") as file:
        table = pickle.load(file)
    assert np.array_equal(rotations, particles.rotations.numpy())
    assert np.allclose(translations, -particles.shifts.numpy() / 8)  # parts of the box, centring
    assert table.shape == (7, 9)
    assert table.dtype == np.float32
    p = particles.ctf
    expected = [
        8,
        2.5,
        *(float(x[3]) for x in (p.defocus_u, p.defocus_v, p.angle)),
        300,
        2.7,
        0.07,
        float(p.phase_shift[3]),
    ]
    assert table[3].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_list_of_stacks_rotations_alone_and_a_downsampled_box(folder):
    (folder / "list.txt").write_text("p.mrcs\np.mrcs\n")
    twice = np.concatenate([random_particles().rotations.numpy()] * 2)
    found = read_cryodrgn(folder / "list.txt", put(folder / "r.pkl", twice), pixel_size=4.0)
    assert len(found) == 14
    assert found.pixel_size == 4.0
    assert not found.shifts.any()
    table = load_arrays(folder / "ctf.pkl") * np.array([4, 1, 1, 1, 1, 1, 1, 1, 1])
    found = read_cryodrgn(folder / "p.mrcs", folder / "poses.pkl", put(folder / "c.pkl", table))
    assert found.pixel_size == pytest.approx(10.0)  # the table is of images of 32 pixels of 2.5, these have 8


class Evil:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize("value", [Evil(), [np.ones(3), Evil()], {"x": torch.nn.Linear}])
def test_a_pickle_that_would_run_something_is_refused(folder, value, capsys):
    with pytest.raises(ValueError, match="only numpy arrays are read"):
        load_arrays(put(folder / "evil.pkl", value))
    assert "run" not in capsys.readouterr().out


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", "<f8", ">f4", "<i8"])
def test_arrays_of_every_pickle_protocol_are_read(tmp_path, protocol, dtype):
    value = (np.arange(6).reshape(2, 3).astype(dtype), np.float32(2.5))
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    found = load_arrays(tmp_path / "x.pkl")
    assert np.array_equal(found[0], value[0])
    assert found[1] == 2.5


@settings(deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("pickle") / "x.pkl"
    path.write_bytes(content)
    try:
        load_arrays(path)
    except ValueError:
        return


@pytest.mark.parametrize(
    ("poses", "message"),
    [
        (np.eye(3)[None], "rotations for 7 images"),
        ((np.zeros((7, 3, 3)), np.zeros((7, 2))), "no rotation"),
        ((np.stack([np.eye(3)] * 7), np.zeros((6, 2))), "translations for 7 images"),
        ((np.stack([np.eye(3)] * 7), np.full((7, 2), 3.0)), "parts of the box"),
        ((np.full((7, 3, 3), np.nan), np.zeros((7, 2))), "rotations of particle 0"),
        ("nothing", "numeric array"),
    ],
)
def test_poses_that_do_not_fit_are_refused(folder, poses, message):
    with pytest.raises(ValueError, match=message):
        read_cryodrgn(folder / "p.mrcs", put(folder / "x.pkl", poses))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t[:5], "CTF parameters for 7 images"),
        (lambda t: t * np.array([1, 1, 1, 1, 1, 0, 1, 1, 1]), "voltage"),
        (lambda t: t + np.arange(7)[:, None] * np.array([0, 1, 0, 0, 0, 0, 0, 0, 0]), "pixel sizes"),
        (lambda t: t + np.arange(7)[:, None] * np.array([1, 0, 0, 0, 0, 0, 0, 0, 0]), "boxes"),
    ],
)
def test_ctfs_that_do_not_fit_are_refused(folder, change, message):
    table = change(load_arrays(folder / "ctf.pkl"))
    with pytest.raises(ValueError, match=message):
        read_cryodrgn(folder / "p.mrcs", folder / "poses.pkl", put(folder / "x.pkl", table))


def test_what_the_files_cannot_hold_is_refused(folder):
    with pytest.raises(ValueError, match="no CTF"):
        write_ctf(folder / "x.pkl", random_particles(with_ctf=False))
    particles = random_particles()
    values = dict(particles.ctf.items()) | {"b_factor": torch.full((7,), 9.0)}
    with_envelope = type(particles)(
        particles.images, particles.rotations, particles.shifts, CTFParameters(**values), 2.5
    )
    with pytest.raises(ValueError, match="B factor"):
        write_ctf(folder / "x.pkl", with_envelope)
    with pytest.raises(ValueError, match=r"missing\.pkl: cannot be read"):
        load_arrays(folder / "missing.pkl")
    with pytest.raises(ValueError, match="source=star"):
        read_cryodrgn(folder / "p.star", folder / "poses.pkl")
