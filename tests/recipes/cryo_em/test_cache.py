import numpy as np
import pytest
import torch

from recipes.cryo_em import cache
from recipes.cryo_em.cryodrgn_files import read_cryodrgn
from recipes.cryo_em.cryosparc import read_cryosparc
from recipes.cryo_em.relion import read_relion
from recipes.cryo_em.simulate import Simulation, simulate
from recipes.cryo_em.structures import beads
from tests.recipes.cryo_em.sets import assert_same, random_particles

pytest.importorskip("mrcfile")
pytest.importorskip("roma")

SETTINGS = Simulation(count=12, size=16, pixel_size=6.0, shift=1.0, seed=3)


def test_a_cached_set_is_what_was_simulated_and_is_made_once(tmp_path, monkeypatch):
    fresh = simulate(beads(), SETTINGS)
    first = cache.cached("beads", "all", SETTINGS, tmp_path)
    monkeypatch.setattr(cache, "simulate", lambda *_: pytest.fail("simulated again"))
    for found in (first, cache.cached("beads", "all", SETTINGS, tmp_path)):
        assert_same(found, fresh)
        assert torch.equal(found.images[:], fresh.images[:])
        assert torch.equal(found.labels, fresh.labels)
        labels = torch.tensor([0.1, 0.8])
        assert torch.equal(found.truth.volumes(labels), fresh.truth.volumes(labels))
        assert torch.equal(found.truth.mobile, fresh.truth.mobile)


def test_the_folder_is_a_set_of_bright_particles_for_every_program(tmp_path):
    found = cache.cached("beads", "all", SETTINGS, tmp_path)
    (folder,) = tmp_path.iterdir()
    for read in (
        read_relion(folder / "particles.star"),
        read_cryosparc(folder / "particles.cs"),
        read_cryodrgn(folder / "particles.mrcs", folder / "poses.pkl", folder / "ctf.pkl"),
    ):
        assert_same(read, found)
        assert torch.equal(read.images[:], -found.images[:])


def test_other_settings_are_other_sets(tmp_path):
    cache.cached("beads", "all", SETTINGS, tmp_path)
    still = cache.cached("beads", "one", SETTINGS, tmp_path)
    cache.cached("beads", "all", Simulation(count=12, size=16, pixel_size=6.0, shift=1.0, seed=4), tmp_path)
    cache.cached("beads", "all", Simulation(count=12, size=16, pixel_size=6.0, with_ctf=False), tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    assert not still.truth.mobile.any()


def test_without_a_ctf_none_comes_back(tmp_path):
    assert (
        cache.cached("beads", "all", Simulation(count=3, size=16, pixel_size=6.0, with_ctf=False), tmp_path).ctf is None
    )


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(cache, "write_truth", fail)
    with pytest.raises(OSError, match="disk full"):
        cache.cached("beads", "all", SETTINGS, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_set_another_process_made_meanwhile_is_used(tmp_path, monkeypatch):
    def slow(*arguments):
        monkeypatch.setattr(cache, "simulate", simulate)
        cache.cached("beads", "all", SETTINGS, tmp_path)
        return simulate(*arguments)

    monkeypatch.setattr(cache, "simulate", slow)
    assert len(cache.cached("beads", "all", SETTINGS, tmp_path)) == 12
    assert len(list(tmp_path.iterdir())) == 1


def test_truths_that_are_missing_damaged_or_of_others_are_refused(tmp_path):
    particles = random_particles()
    with pytest.raises(ValueError, match="no truth"):
        cache.write_truth(tmp_path / "t.npz", particles)
    with pytest.raises(ValueError, match=r"t\.npz: not a readable"):
        cache.with_truth(tmp_path / "t.npz", particles)
    np.savez(tmp_path / "t.npz", labels=np.zeros(3))
    with pytest.raises(ValueError, match=r"t\.npz: not a readable"):
        cache.with_truth(tmp_path / "t.npz", particles)
    simulated = simulate(beads(), SETTINGS)
    cache.write_truth(tmp_path / "t.npz", simulated)
    with pytest.raises(ValueError, match="labels have shape"):
        cache.with_truth(tmp_path / "t.npz", particles)
