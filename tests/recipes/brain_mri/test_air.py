import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recipes.brain_mri.air import AIRTransform, air
from recipes.brain_mri.phantom import phantom


def rescaled(volume):
    """Percentiles 1 and 99 to 0 and 1, as preprocessing does."""
    low, high = np.percentile(volume.image[volume.mask], [1, 99])
    return np.clip((volume.image - low) / (high - low), 0, 1), volume.mask


@given(st.integers(0, 2**16), st.sampled_from(["on", "off"]))
def test_involution_that_leaves_the_background_alone(seed, mode):
    draw = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 257, (2, 1, 5, 6), generator=draw) / 256  # 1 - x is exact
    mask = torch.rand(2, 1, 5, 6, generator=draw) > 0.5
    transform = AIRTransform(mode)
    once = transform(image, mask)
    assert torch.equal(transform(once, mask), image)
    assert torch.equal(once[~mask], image[~mask])
    assert torch.equal(once[mask], 1 - image[mask] if mode == "on" else image[mask])


@pytest.mark.parametrize(("contrast", "inverted"), [("t2", False), ("flair", True)])
def test_auto_follows_the_mean_of_healthy_brains(contrast, inverted):
    volumes = [rescaled(phantom(seed, contrast=contrast)) for seed in range(3)]
    transform = AIRTransform()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert transform.fit(volumes) is transform
    assert bool(transform.inverted) is inverted
    assert transform.mu.item() == pytest.approx(np.mean([image[mask].mean() for image, mask in volumes]), abs=1e-6)
    assert transform.state() == {"mode": "auto", "mu": transform.mu.item(), "inverted": inverted}


def test_volumes_count_alike_whatever_their_size():
    pairs = [(np.full(100, 0.2), np.ones(100, bool)), (np.full(4, 0.9), np.array([1, 0, 0, 0]))]
    assert AIRTransform().fit(pairs).mu.item() == pytest.approx(0.55)


def test_decision_is_in_the_state():
    fitted = AIRTransform().fit([(np.full(8, 0.8), np.ones(8, bool))])
    loaded = AIRTransform()
    loaded.load_state_dict(fitted.state_dict())
    image, mask = torch.full((1, 1, 2, 2), 0.75), torch.ones(1, 1, 2, 2)
    assert torch.equal(loaded(image, mask), torch.full((1, 1, 2, 2), 0.25))
    assert set(fitted.state_dict()) == {"mu", "inverted"}


def test_a_mode_that_is_given_is_not_changed_by_fitting():
    for mode, inverted in (("on", True), ("off", False)):
        transform = AIRTransform(mode).fit([(np.full(8, 0.8 if mode == "off" else 0.2), np.ones(8, bool))])
        assert bool(transform.inverted) is inverted


def test_a_close_call_is_said():
    with pytest.warns(UserWarning, match=r"0\.520, near 0\.5"):
        AIRTransform().fit([(np.full(8, 0.52), np.ones(8, bool))])


def test_gradient_is_minus_one_where_inverted():
    image = torch.rand(2, 3, requires_grad=True)
    mask = torch.tensor([[True, False, True]] * 2)
    AIRTransform("on")(image, mask).sum().backward()
    assert torch.equal(image.grad, torch.where(mask, -1.0, 1.0))


def test_bad_input():
    with pytest.raises(ValueError, match="air must be one of auto, on, off, got 'yes'"):
        AIRTransform("yes")
    with pytest.raises(ValueError, match="has not been fitted"):
        AIRTransform()(torch.zeros(2), torch.ones(2))
    with pytest.raises(ValueError, match="differ in shape"):
        AIRTransform("on")(torch.zeros(2), torch.ones(3))
    with pytest.raises(ValueError, match="no volume"):
        AIRTransform().fit([])
    with pytest.raises(ValueError, match="mask of volume 1 is empty"):
        AIRTransform().fit([(np.ones(3), np.ones(3)), (np.ones(3), np.zeros(3))])


def test_ratio():
    image, mask = np.array([0.9, 0.1, 0.3, 0.6, 0.2]), np.array([0, 1, 1, 1, 1])
    assert air(image, mask, np.array([0, 0, 0, 1, 0])) == pytest.approx(0.6 / 0.2)
    assert air(image, mask, mask) != air(image, mask, mask)  # NaN: nothing normal
    assert np.isnan(air(image, mask, np.zeros(5)))


def test_ratio_after_inversion_is_the_reciprocal_rule():
    """|log AIR| grows by mu / (1 - mu) for a weak lesion: the reason for the threshold at 0.5."""
    mu, offset = 0.7, 1e-4
    image, seg = np.array([mu, mu, mu + offset]), np.array([0, 0, 1])
    raw, inverted = (abs(np.log(air(values, np.ones(3), seg))) for values in (image, 1 - image))
    assert inverted / raw == pytest.approx(mu / (1 - mu), rel=1e-3)
