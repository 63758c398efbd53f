import math

import torch

from recipes.cryo_em.simulate import project
from recipes.cryo_em.structures import Trajectory, beads
from recipes.cryo_em.truth import Truth, default_sigma

BEADS = beads(5)
TRUTH = Truth(BEADS, 24, 4.0, 4.0)


def test_a_map_is_the_sum_of_gaussians_at_voxels_in_order_z_y_x():
    atoms = torch.tensor([[[4.0, 8.0, -4.0], [0.0, 0.0, 0.0]]])
    truth = Truth(Trajectory(atoms, torch.tensor([2.0, 1.0])), 8, 2.0, 3.0)
    found = truth.volumes(torch.tensor([0.3]))[0]
    for z, y, x in ((2, 7, 6), (4, 4, 4), (0, 3, 5)):
        at = (torch.tensor([x, y, z]) - 4) * 2.0
        squared = ((at - atoms[0]) ** 2).sum(-1)
        density = torch.exp(-squared / 18) / (2 * math.pi * 9) ** 1.5 * 8  # a voxel is 8 cubic Angstrom
        assert torch.isclose(found[z, y, x], (density * torch.tensor([2.0, 1.0])).sum(), rtol=1e-4)


def test_sums_along_axes_are_projections():
    labels = torch.tensor([0.0, 0.6])
    maps, atoms = TRUTH.volumes(labels), BEADS.at(labels)
    turned = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])  # camera x, y, z are the map's y, z, x
    for rotation, axis in ((torch.eye(3), 1), (turned, 3)):
        images = project(atoms, BEADS.weights, rotation.expand(2, 3, 3), torch.zeros(2, 2), 24, 4.0, 4.0)
        assert torch.allclose(maps.sum(axis), images, atol=1e-3 * float(images.max()))


def test_labels_may_be_many_or_none():
    labels = torch.linspace(0, 1, 7)
    together = TRUTH.volumes(labels)
    assert torch.allclose(together, torch.cat([TRUTH.volumes(label[None]) for label in labels]), atol=1e-6)
    assert TRUTH.volumes(torch.zeros(0)).shape == (0, 24, 24, 24)


def test_what_moves_is_mobile_and_what_stays_is_not():
    mobile, mean = TRUTH.mobile, TRUTH.volumes(torch.linspace(0, 1, 21)).mean(0)
    assert mobile.dtype == torch.bool
    dense = mean > 0.2 * mean.max()
    assert 0 < int(mobile.sum()) < 0.1 * 24**3
    below = torch.arange(24)[:, None, None].expand(24, 24, 24) < 10  # the body alone
    assert not (mobile & below).any()
    assert (dense & below).any()
    arm = torch.round(BEADS.positions[2, 60:] / 4 + 12).long()
    assert mobile[arm[:, 2], arm[:, 1], arm[:, 0]].any()
    assert not Truth(BEADS.only_first(), 24, 4.0, 4.0).mobile.any()


def test_atoms_widths():
    assert default_sigma(3.0) == 2.0
    assert default_sigma(1.5) == 1.5
