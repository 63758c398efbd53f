import pytest
import torch

from recipes.cryo_em.deformation import LEAK, AttentionHead, PerceptronHead
from recipes.cryo_em.geometry import random_rotations
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.support import distances, positions_of, sphere
from recipes.cryo_em.volumes import FeatureTable, HashVolume

SIZE = 8


def tiny(**options):
    torch.manual_seed(0)
    model = CryoFormer(
        SIZE, 3.0, **{"queries": 3, "channels": 4, "hidden": 5, "heads": 2, "encoder_depth": 2, **options}
    )
    with torch.no_grad():
        model.base.normal_()
        model.head.density.weight.normal_()
    return model


def seen(images):
    generator = torch.Generator().manual_seed(2)
    return {
        "image": images,
        "rotation": random_rotations(len(images), generator),
        "shift": torch.rand(len(images), 2, generator=generator),
        "ctf": torch.rand(len(images), SIZE, SIZE // 2 + 1, generator=generator),
    }


@pytest.fixture
def images():
    return torch.randn(2, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("decoder", ["transformer", "mlp"])
@pytest.mark.parametrize("values", ["features", "queries"])
@pytest.mark.parametrize("volume", ["table", "hash"])
@pytest.mark.parametrize("sees", ["residual", "image"])
def test_every_variant_tells_images_apart_and_learns_everything(images, decoder, values, volume, sees):
    model = tiny(decoder=decoder, values=values, volume=volume, sees=sees)
    latents = model.encode(seen(images))
    assert latents.shape == (2, 3, 4)
    maps = model.volumes(latents)
    assert maps.shape == (2, SIZE, SIZE, SIZE)
    assert torch.equal(maps[:, model.support], model.densities(latents))
    assert not maps[:, ~model.support].any()
    assert not torch.allclose(maps[0], maps[1])
    maps.square().sum().backward()
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []


def test_the_head_is_the_formula():
    """sigma = sum_n w . phi(W [softmax(Q F^T / sqrt C) Q]_n + b), point by point."""
    torch.manual_seed(2)
    head, queries, features = AttentionHead(4, 5), torch.randn(2, 3, 4), torch.randn(7, 3, 4)
    with torch.no_grad():
        head.density.weight.normal_()
    wanted = torch.zeros(2, 7)
    for image in range(2):
        for point in range(7):
            weights = (queries[image] @ features[point].T / 4**0.5).softmax(-1)
            wanted[image, point] = head.density(
                torch.nn.functional.leaky_relu(head.lift(weights @ queries[image]), LEAK)
            ).sum()
    assert torch.allclose(head(queries, features), wanted, atol=1e-5)
    assert torch.allclose(head(queries, features.expand(2, -1, -1, -1)), wanted, atol=1e-5)


def test_features_of_each_image_in_the_ablation():
    torch.manual_seed(3)
    head, queries, features = PerceptronHead(3, 4, 5), torch.randn(2, 3, 4), torch.randn(7, 3, 4)
    assert torch.allclose(head(queries, features), head(queries, features.expand(2, -1, -1, -1)), atol=1e-6)


def test_attention_maps_sum_to_one_on_the_support(images):
    model = tiny()
    maps = model.attention_maps(model.encode(seen(images)))
    assert maps.shape == (2, 3, SIZE, SIZE, SIZE)
    assert torch.allclose(maps.sum(1), model.support.float().expand(2, -1, -1, -1), atol=1e-5)
    ablation = tiny(decoder="mlp")
    assert (model.attends, ablation.attends) == (True, False)
    with pytest.raises(ValueError, match="no attention"):
        ablation.attention_maps(ablation.encode(seen(images)))


def test_voxels_that_stay_keep_their_features():
    model = tiny(smooth=0)
    table = model.volume.table
    before, mask = table.detach().clone(), distances(SIZE) < 2
    kept = mask[sphere(SIZE)]
    model.set_support(mask)
    assert model.volume.table is table
    assert torch.equal(table.detach(), before[kept])
    assert torch.equal(model.positions, positions_of(mask))
    model.set_support(torch.ones(SIZE, SIZE, SIZE))  # held inside the sphere
    assert torch.equal(model.support, sphere(SIZE))
    assert torch.equal(table.detach()[kept], before[kept])


@pytest.mark.parametrize("volume", ["table", "hash"])
def test_another_model_takes_over_the_support(images, volume):
    trained, fresh = tiny(volume=volume), tiny(volume=volume)
    trained.set_support(distances(SIZE) < 2.5)
    fresh.load_state_dict(trained.state_dict())
    latents = trained.encode(seen(images))
    assert torch.equal(fresh.volumes(latents), trained.volumes(latents))


def test_hash_volume_mixes_the_nodes_around_a_point():
    volume = HashVolume(SIZE, 2, 3, levels=1, coarsest=4)
    volume.place(positions_of(sphere(SIZE)), torch.zeros(0))
    # Resolution 4 in a box of 8: nodes lie at even voxels, points between them are means.
    node = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    rows, weights = volume._corners(torch.cat([node, node.mean(0, keepdim=True)]))
    values = (volume.table[rows] * weights[..., None]).sum((1, 2))
    assert torch.allclose(values[2], values[:2].mean(0), atol=1e-6)
    assert torch.allclose(weights.sum(-1), torch.ones(3, 1))
    assert torch.equal(volume.at(positions_of(sphere(SIZE))), volume())


def test_hashed_levels_stay_in_their_own_rows():
    volume = HashVolume(32, 2, 3, levels=3, entries=64, coarsest=2)
    rows, _ = volume._corners(positions_of(sphere(32)))
    ends = torch.tensor(volume.lengths).cumsum(0)
    for level in range(3):
        begin = 0 if level == 0 else ends[level - 1]
        assert begin <= rows[:, level].min() <= rows[:, level].max() < ends[level]


def test_feature_table_is_the_parameter():
    table = FeatureTable(5, 2, 3)
    assert table() is table.table


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"decoder": "cnn"}, "cnn"),
        ({"sees": "noise"}, "noise"),
        ({"volume": "mesh"}, "mesh"),
        ({"values": "keys"}, "keys"),
        ({"heads": 3}, "not a multiple of heads=3"),
        ({"encoder_depth": 0}, "at least one hidden layer"),
        ({"smooth": -1}, "smooth=-1"),
    ],
)
def test_unknown_options(options, said):
    with pytest.raises(ValueError, match=said):
        tiny(**options)


@torch.no_grad()
def test_at_first_latents_hardly_tell_images_apart():
    """What fills them with the noise of images before anything is learned stays there for long."""
    model, noise = tiny(channels=16, encoder_depth=10, encoder_width=64), seen(torch.randn(50, SIZE, SIZE))
    quiet = model.encode(noise).var(0).mean()
    model.encoder.last.weight.mul_(10)
    assert quiet < 0.5 * model.encode(noise).var(0).mean()


def test_latents_have_variance_one_and_the_reference_moves_nothing():
    torch.manual_seed(0)
    model = CryoFormer(8, 3.0, encoder_depth=2)
    latents = model.encode(seen(torch.randn(5, 8, 8)))
    assert torch.allclose(latents.var(-1, unbiased=False), torch.ones(5, 4), atol=1e-3)
    for _ in range(400):
        model.follow(latents)
    assert torch.allclose(model.reference, latents.mean(0, keepdim=True), atol=1e-3)
    still = model.deformations(model.reference)
    assert still.abs().max() < 1e-6 < model.deformations(latents).abs().max()
