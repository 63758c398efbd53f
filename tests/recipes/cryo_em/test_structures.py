import numpy as np
import pytest
import torch

from recipes.cryo_em.structures import Trajectory, adenylate_kinase, beads, superposition

BEADS = beads()


def test_labels_join_frames_by_lines_and_hit_the_ends():
    path = Trajectory(torch.tensor([[[0.0, 0, 0]], [[1.0, 0, 0]], [[3.0, 0, 0]]]), torch.ones(1))
    x = path.at(torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 2.0]))[:, 0, 0]
    assert x.tolist() == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_one_frame_stays():
    still = BEADS.only_first()
    assert torch.equal(still.at(torch.tensor([0.0, 0.4, 1.0])), BEADS.positions[:1].expand(3, -1, -1))


def test_the_arm_of_beads_swings_rigidly_and_the_body_stays():
    assert torch.equal(BEADS.positions[0, :60], BEADS.positions[-1, :60])
    for arm in (BEADS.positions[0, 60:], BEADS.positions[-1, 60:]):
        assert torch.allclose(
            torch.cdist(arm, arm), torch.cdist(BEADS.positions[5, 60:], BEADS.positions[5, 60:]), atol=1e-3
        )
    moved = (BEADS.positions[0] - BEADS.positions[-1]).norm(dim=-1)
    assert float(moved.max()) > 20
    assert BEADS.radius < 36


def test_beads_have_a_hand():
    body = (BEADS.positions[0] - BEADS.positions[0].mean(0)).double().numpy()
    eigenvalues, axes = np.linalg.eigh(body.T @ body)
    assert np.diff(eigenvalues).min() > 50  # so that the axes are determined up to their signs
    skew = ((body @ axes) ** 3).sum(0)
    assert (np.abs(skew) > 100).all()  # and those too


def test_superposition_undoes_a_rotation_and_never_mirrors():
    g = np.random.default_rng(0)
    fixed = g.normal(size=(20, 3))
    rotation = np.linalg.qr(g.normal(size=(3, 3)))[0]
    rotation *= np.linalg.det(rotation)
    assert np.allclose(superposition(fixed @ rotation, fixed), rotation.T)
    mirrored = superposition(fixed * np.array([1, 1, -1]), fixed)
    assert np.linalg.det(mirrored) == pytest.approx(1)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="do not fit 2 atoms"):
        Trajectory(torch.zeros(4, 3, 3), torch.ones(2))


def test_adenylate_kinase_opens_about_its_core():
    MDAnalysis = pytest.importorskip("MDAnalysis")
    files = pytest.importorskip("MDAnalysisTests.datafiles")
    from MDAnalysis.analysis import align

    found = adenylate_kinase()
    assert found.positions.shape == (98, 1656, 3)
    assert found.positions.mean((0, 1)).abs().max() < 1e-3
    assert set(found.weights.tolist()) == {6.0, 7.0, 8.0, 16.0}
    assert found.radius < 48  # fits 32 pixels of 3 Angstrom
    # The same superposition by MDAnalysis.
    mobile, reference = MDAnalysis.Universe(files.PSF, files.DCD), MDAnalysis.Universe(files.PSF, files.DCD)
    mobile.trajectory[-1]
    core = "name CA and (resid 1:29 or resid 60:121 or resid 160:214)"
    align.alignto(mobile, reference, select=core)
    heavy = "not name H*"
    step = mobile.select_atoms(heavy).positions - reference.select_atoms(heavy).positions
    assert np.abs((found.positions[-1] - found.positions[0]).numpy() - step).max() < 1e-2
    assert float(np.sqrt((step**2).sum(1).mean())) == pytest.approx(7.6, abs=0.05)
