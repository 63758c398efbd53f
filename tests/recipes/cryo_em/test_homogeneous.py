import pytest
import torch

from recipes.cryo_em.consensus import Inversion
from recipes.cryo_em.ctf import ctf
from recipes.cryo_em.fsc import fourier_shell_correlation
from recipes.cryo_em.homogeneous import Homogeneous, _Normal, reconstruct
from recipes.cryo_em.masks import density_mask, sphere
from tests.recipes.cryo_em.fake import SIZE, hinge

EVERYWHERE = torch.ones(SIZE, SIZE, SIZE, dtype=torch.bool)


@pytest.fixture(scope="module")
def still():
    return hinge(count=400, still=True, snr=1.0)


def test_one_conformation_is_reconstructed(still):
    truth = still.truth.volumes(torch.zeros(1))[0]
    found = reconstruct(still, EVERYWHERE)
    curve = fourier_shell_correlation(found.volume, truth, still.pixel_size).correlation
    assert float(curve[: SIZE // 2 - 1].min()) > 0.8
    for half in found.halves:
        assert float(fourier_shell_correlation(half, truth, still.pixel_size).correlation[:5].min()) > 0.8


def test_half_maps_share_no_image(still):
    """A change in one image with an odd number changes the second half map, and not the first."""
    found = reconstruct(still, EVERYWHERE)
    images = still.images[slice(None)].clone()
    images[7] += 100 * torch.randn(SIZE, SIZE)
    again = reconstruct(type(still)(type(still.images)(images), *(getattr(still, n) for n in _OTHERS)), EVERYWHERE)
    assert torch.equal(again.halves[0], found.halves[0])
    assert not torch.allclose(again.halves[1], found.halves[1])


_OTHERS = ("rotations", "shifts", "ctf", "pixel_size")


def test_halves_are_not_weighted_by_shells():
    """Half maps of pure noise keep the power of all shells: weighting by reliability would take it away."""
    noise = hinge(count=60, snr=1e-6)
    half = reconstruct(noise, EVERYWHERE).halves[0]
    power = torch.fft.fftn(half).abs().square()
    line = torch.fft.fftfreq(SIZE, 1 / SIZE).square()
    shell = (line[:, None, None] + line[None, :, None] + line).sqrt().round()
    per_shell = [float(power[shell == k].mean()) for k in range(1, 7)]
    assert min(per_shell) > 1e-3 * max(per_shell)


def inserted(particles):
    sums = Inversion(SIZE)
    transfer = ctf(particles.ctf, SIZE, particles.pixel_size)
    sums.add(particles.images[slice(None)], particles.rotations, particles.shifts, transfer)
    return sums, transfer


def exact_misfit(particles, transfer, volume):
    """Squared error of all images less that of an empty map, each slice of the map's transform by its definition."""
    kept = Inversion(SIZE).frequencies
    grid = torch.stack(torch.meshgrid(*[torch.arange(SIZE) - SIZE // 2] * 3, indexing="ij"), -1).reshape(-1, 3)
    total = 0.0
    rows, columns = (kept[:, 1].long() % SIZE), kept[:, 0].long()
    for i in range(len(particles)):
        points = torch.cat([kept, torch.zeros(len(kept), 1)], 1) @ particles.rotations[i]  # R^T k, as x, y, z
        phase = -2j * torch.pi / SIZE * (points @ grid.flip(1).T.float())
        model = (torch.exp(phase) @ volume.flatten().to(torch.complex64)) * transfer[i, rows, columns]
        centre = SIZE // 2 + particles.shifts[i]
        image = torch.fft.rfft2(particles.images[i][0])[rows, columns] * torch.exp(
            2j * torch.pi / SIZE * (kept @ centre)
        )
        total += float((model - image).abs().square().sum() - image.abs().square().sum())
    return total


def test_the_normal_equations_hold_the_error_of_the_images():
    few = hinge(count=24, snr=1.0)
    sums, transfer = inserted(few)
    inside = sphere(SIZE, 5)
    halves = [_Normal.of(sums, half, inside) for half in (0, 1)]
    truth = few.truth.volumes(torch.tensor([0.5]))[0] * inside
    smooth = torch.nn.functional.avg_pool3d(torch.randn(1, 1, SIZE, SIZE, SIZE), 3, 1, 1)[0, 0] * inside
    units = []
    for volume in (truth, 0.3 * truth, smooth):
        ours = sum(half.misfit(volume) for half in halves)
        units.append(exact_misfit(few, transfer, volume) / ours)
    assert units == pytest.approx([units[0]] * 3, rel=0.03)


def test_least_squares_is_no_worse_than_inversion_within_the_same_support(still):
    truth = still.truth.volumes(torch.zeros(1))[0]
    support = density_mask(truth, dilate=1, edge=0) > 0
    found = reconstruct(still, support)
    assert not found.fitted[~support].any()
    aucs = [
        float(fourier_shell_correlation(volume * support, truth, still.pixel_size).auc)
        for volume in (found.fitted, found.volume)
    ]
    assert aucs[0] > aucs[1] - 0.01


def test_the_iterates_end_at_the_solution_of_the_normal_equations():
    sums, _ = inserted(hinge(count=24))
    inside = sphere(SIZE, 1.5)
    equations = _Normal.of(sums, 0, inside)
    places = inside.flatten().nonzero()[:, 0]
    columns = []
    for place in places:
        unit = torch.zeros(SIZE**3)
        unit[place] = 1
        columns.append(equations(unit.view(SIZE, SIZE, SIZE)).flatten()[places])
    matrix = torch.stack(columns, 1).double()
    assert torch.allclose(matrix, matrix.T, atol=1e-4 * float(matrix.abs().max()))
    solution = torch.linalg.solve(matrix, equations.target.flatten()[places].double())
    *_, last = equations.iterates()
    assert torch.allclose(last.flatten()[places].double(), solution, rtol=1e-2, atol=1e-3 * float(solution.abs().max()))


def test_the_baseline_ignores_latents(still):
    support = torch.zeros(SIZE, SIZE, SIZE, dtype=torch.bool)
    support[4:12, 4:12, 4:12] = True
    model = Homogeneous(torch.ones(SIZE, SIZE, SIZE), support, 6.0)
    volumes = model.volumes(model.encode({"image": still.images[:3]}))
    assert torch.equal(volumes, support.float().expand(3, -1, -1, -1))
    assert model.attention_maps(model.encode({"image": still.images[:3]})).shape == (3, 1, SIZE, SIZE, SIZE)


def test_too_few_images_are_refused(still):
    with pytest.raises(ValueError, match="at least 4"):
        reconstruct(still.subset(slice(0, 3)), EVERYWHERE)
