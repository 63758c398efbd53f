import numpy as np
import pytest
import torch

from recipes.cryo_em.states import bin_middles, cluster, label_states, principal_components, states_at, traversal


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_components_are_those_of_the_singular_value_decomposition():
    latents = normal(50, 2, 3) * torch.tensor([3.0, 1.0, 0.2])
    found = principal_components(latents, 3)
    flat = latents.flatten(1).double().numpy()
    _, values, axes = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    assert found.explained.tolist() == pytest.approx((values**2 / (values**2).sum())[:3])
    assert np.abs(found.axes.numpy() @ axes[:3].T) == pytest.approx(np.eye(3), abs=1e-6)
    rebuilt = found.mean + principal_components(latents, 6).scores @ principal_components(latents, 6).axes
    assert torch.allclose(rebuilt, latents.flatten(1).double(), atol=1e-9)


def test_a_flipped_axis_changes_scores_and_axes_alike():
    found = principal_components(normal(20, 4))
    turned = found.flipped(1)
    assert torch.equal(turned.scores[:, 1], -found.scores[:, 1])
    assert torch.equal(turned.scores[:, 0], found.scores[:, 0])
    assert torch.allclose(turned.scores @ turned.axes, found.scores @ found.axes)


def test_constant_latents_have_components_that_explain_nothing():
    assert principal_components(torch.ones(5, 3)).explained.tolist() == [0, 0]


def test_a_state_is_the_mean_of_the_nearest_images():
    labels = torch.rand(40, generator=torch.Generator().manual_seed(0))
    latents = normal(40, 2, 3)
    found = label_states(latents, labels, count=4, nearest=5)
    for at, latent, members in zip(bin_middles(4), found.latents, found.members, strict=True):
        expected = sorted(range(40), key=lambda i: abs(float(labels[i]) - float(at)))[:5]
        assert sorted(members.tolist()) == sorted(expected)
        assert torch.allclose(latent, latents[expected].mean(0))


def test_more_neighbours_than_images_means_all():
    assert len(states_at(normal(7, 2), torch.rand(7), torch.tensor([0.5]), nearest=100).members[0]) == 7


def test_a_traversal_goes_up_the_component():
    latents = normal(200, 3) * torch.tensor([5.0, 1.0, 1.0])
    components = principal_components(latents)
    found = traversal(latents, components, count=5, nearest=10)
    along = (found.latents.double() - components.mean) @ components.axes[0]
    assert bool((along.diff() > 0).all())
    quantiles = np.quantile(components.scores[:, 0].numpy(), [0.1, 0.3, 0.5, 0.7, 0.9])
    assert found.positions.tolist() == pytest.approx(quantiles.tolist())


def test_clusters_that_are_far_apart_are_found_whole_and_in_order():
    centres = torch.tensor([[0.0, 0.0], [20.0, 0.0], [40.0, 1.0]])
    owner = torch.arange(60) % 3
    latents = centres[owner] + normal(60, 2)
    found = cluster(latents, 3)
    groups = [set(members.tolist()) for members in found.members]
    expected = [set((owner == k).nonzero()[:, 0].tolist()) for k in range(3)]
    assert groups in (expected, expected[::-1])
    assert bool((found.positions.diff() > 0).all())
    for members, latent in zip(found.members, found.latents, strict=True):
        assert torch.allclose(latent, latents[members].mean(0), atol=1e-5)


def test_equal_images_are_one_cluster():
    found = cluster(torch.ones(6, 2), 3)
    assert len(found.latents) == 1
    assert len(found.members[0]) == 6


def test_clusters_are_the_same_for_the_same_seed():
    latents = normal(80, 3)
    assert torch.equal(cluster(latents, 4, seed=5).latents, cluster(latents, 4, seed=5).latents)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: principal_components(torch.ones(1, 3)), "at least 2"),
        (lambda: principal_components(torch.full((3, 3), torch.nan)), "finite"),
        (lambda: traversal(normal(9, 2), principal_components(normal(9, 2)), axis=4), "component 5"),
        (lambda: label_states(normal(9, 2), torch.rand(9), nearest=0), "nearest"),
        (lambda: label_states(normal(9, 2), torch.rand(8)), "coordinate"),
        (lambda: cluster(normal(3, 2), 4), "clusters"),
        (lambda: bin_middles(0), "states"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
