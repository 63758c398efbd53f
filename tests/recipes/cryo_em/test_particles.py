import pytest
import torch

from recipes.cryo_em.particles import Particles
from recipes.cryo_em.stack import TensorStack
from tests.recipes.cryo_em.sets import assert_same, random_particles


def test_a_subset_takes_everything_along():
    all_of = random_particles()
    some = Particles(
        all_of.images,
        all_of.rotations,
        all_of.shifts,
        all_of.ctf,
        2.5,
        torch.arange(7) / 7,
        half=torch.arange(7) % 2 + 1,
    ).subset([5, 1])
    assert len(some) == 2
    assert some.size == 8
    assert torch.equal(some.images[:], all_of.images[[5, 1]])
    assert torch.equal(some.labels, torch.tensor([5 / 7, 1 / 7]))
    assert some.half.tolist() == [2, 2]
    assert_same(some.subset(slice(1, 2)), all_of.subset([1]))
    assert random_particles(with_ctf=False).subset([0]).ctf is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotations": torch.eye(3)[None]}, r"rotations have shape \(1, 3, 3\); 7 images need \(7, 3, 3\)"),
        ({"rotations": -torch.eye(3).expand(7, 3, 3)}, "no rotation"),
        ({"rotations": 1.1 * torch.eye(3).expand(7, 3, 3)}, "no rotation"),
        ({"shifts": torch.full((7, 2), float("nan"))}, "shifts of particle 0"),
        ({"labels": torch.zeros(3)}, "labels have shape"),
        ({"half": torch.zeros(3)}, "halves have shape"),
        ({"ctf": random_particles(5).ctf}, "of 5 images were given for 7"),
        ({"pixel_size": 0.0}, "pixel size is 0.0"),
        ({"images": TensorStack(torch.zeros(0, 8, 8))}, "no particle images"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    p = random_particles()
    given = {"images": p.images, "rotations": p.rotations, "shifts": p.shifts, "ctf": p.ctf, "pixel_size": 2.5} | change
    with pytest.raises(ValueError, match=message):
        Particles(**given)
