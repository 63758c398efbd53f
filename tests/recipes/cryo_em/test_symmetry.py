import torch

from recipes.cryo_em.ctf import CTFParameters, ctf
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.projector import Projector
from recipes.cryo_em.support import positions_of, sphere
from recipes.cryo_em.symmetry import VIEWS, Views

SIZE = 16


def test_a_turned_image_is_what_the_turned_camera_sees():
    generator = torch.Generator().manual_seed(0)
    mask, views = sphere(SIZE), Views(SIZE)
    positions, project = positions_of(mask), Projector(SIZE)
    smooth = torch.exp(-((positions - torch.tensor([1.0, 2.0, -1.5])) ** 2).sum(1) / 4)
    smooth = smooth + 0.5 * torch.exp(-((positions + torch.tensor([3.0, 0.0, 1.0])) ** 2).sum(1) / 3)
    chosen = torch.arange(VIEWS)
    rotation, shift = random_rotations(1, generator), torch.tensor([[1.3, -0.6]])
    transfer = ctf(
        CTFParameters.of(
            1, defocus_u=12000.0, defocus_v=8000.0, angle=25.0, voltage=300.0, cs=2.7, amplitude_contrast=0.1
        ),
        SIZE,
        3.0,
    )
    # At Nyquist +k and -k are one element, but not one value of an astigmatic CTF.
    transfer[:, SIZE // 2] = transfer[:, :, -1] = 0

    def seen(rotations, shifts, transfers):
        return project.images(project(smooth.expand(len(rotations), -1), positions, rotations, shifts) * transfers)

    image = seen(rotation, shift, transfer).expand(VIEWS, -1, -1)
    rotations, shifts = (part.expand(VIEWS, *part.shape[1:]) for part in (rotation, shift))
    wanted = seen(
        views.rotations(rotations, chosen),
        views.shifts(shifts, chosen),
        views.transfer(transfer.expand(VIEWS, -1, -1), chosen),
    )
    assert torch.allclose(views.images(image, chosen), wanted, atol=2e-3 * image.abs().max())
    apart = (wanted[:, None] - wanted).flatten(2).norm(dim=-1) + torch.eye(VIEWS)
    assert apart.min() > 0.1  # eight different views


def test_views_are_rotations():
    matrices = Views(8).matrices
    assert torch.allclose(torch.linalg.det(matrices), torch.ones(VIEWS))
    assert torch.equal(
        Views(8).images(torch.arange(64.0).view(1, 8, 8), torch.tensor([0]))[0].flatten(), torch.arange(64.0)
    )
