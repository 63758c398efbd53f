import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.brain_mri.scores import best_dice, dice, false_positive_rate
from recipes.brain_mri.thresholds import Threshold, at_false_positive_rate, best_dice_bisection


def volumes(seed, count=3, shape=(6, 5, 4)):
    draw = np.random.default_rng(seed)
    segs = [draw.random(shape) > 0.8 for _ in range(count)]
    maps = [np.clip(draw.normal(0.3 + 0.25 * seg, 0.1), 0, 1).astype(np.float32) for seg in segs]
    return maps, segs


def zimmerer(maps, segs):
    """The recursion of the published search, on boolean masks."""
    scores, labels = np.concatenate([m.ravel() for m in maps]), np.concatenate([s.ravel() for s in segs])

    def search(low, high, steps, best):
        if steps == 0:
            return best
        lower, upper = low + (high - low) / 4, low + 3 * (high - low) / 4
        a, b = dice(scores > np.float32(lower), labels), dice(scores > np.float32(upper), labels)
        if a >= b:
            return search(low, (low + high) / 2, steps - 1, (a, lower) if a >= best[0] else best)
        return search((low + high) / 2, high, steps - 1, (b, upper) if b >= best[0] else best)

    return search(0.0, float(scores.max()), 10, (-1.0, 0.0))


@given(st.integers(0, 500))
def test_bisection_is_the_published_search(seed):
    maps, segs = volumes(seed)
    found = best_dice_bisection(maps, segs)
    score, value = zimmerer(maps, segs)
    assert found.value == pytest.approx(value, rel=1e-12)
    pooled = [found.binary(np.stack(maps)), np.stack(segs)]
    assert dice(*pooled) == pytest.approx(score)
    assert f"Dice there {score:.3f}" in found.origin
    assert dice(*pooled) <= best_dice(np.stack(maps), np.stack(segs)) + 1e-12


def test_volumes_are_pooled_and_may_differ_in_shape():
    large, small = np.zeros((4, 4, 4), np.float32), np.array([[[0.2, 0.9]]], np.float32)
    threshold = best_dice_bisection([large, small], [large > 1, small > 0.5])
    assert 0.2 <= threshold.value < 0.9
    assert threshold.origin == "best Dice of 2 lesion validation volumes, bisection; Dice there 1.000"
    assert str(threshold).endswith(f"({threshold.origin})")


def test_strictly_above():
    threshold = Threshold(0.1, "given")  # 0.1 is no float32
    assert not threshold.binary(np.array([0.1], np.float32)).any()
    assert threshold.binary(np.array([0.1001], np.float32)).all()


def test_a_map_of_zeros_has_a_threshold_that_calls_nothing():
    seg = np.array([[[True, False]]])
    assert not best_dice_bisection([np.zeros(seg.shape, np.float32)], [seg]).binary(np.zeros(seg.shape)).any()


@given(st.integers(0, 500), st.sampled_from([0.01, 0.05, 0.1, 0.5, 0.9]))
def test_false_positive_rate_is_kept_and_used_up(seed, rate):
    draw = np.random.default_rng(seed)
    maps = [draw.random((7, 6, 3)).astype(np.float32) for _ in range(2)]
    masks = [draw.random(m.shape) > 0.4 for m in maps]
    threshold = at_false_positive_rate(maps, masks, rate)
    found = false_positive_rate(threshold.binary(np.stack(maps)), np.stack(masks))
    assert rate - 1 / np.sum(masks) < found <= rate


def test_ties_never_exceed_the_rate():
    maps, masks = [np.array([0.0, 0.5, 0.5, 0.5])], [np.ones(4, bool)]
    assert at_false_positive_rate(maps, masks, 0.5).value == 0.5
    assert at_false_positive_rate(maps, masks, 0.8).value == 0.0


def test_origin_of_a_label_free_threshold():
    threshold = at_false_positive_rate([np.arange(10.0)], [np.ones(10, bool)], 0.1)
    assert threshold == Threshold(8.0, "10 % false positives in 1 healthy validation volume")


def test_bad_input():
    maps, segs = volumes(0)
    with pytest.raises(ValueError, match="got 3 maps, 2 masks"):
        best_dice_bisection(maps, segs[:2])
    with pytest.raises(ValueError, match="volume 1: map"):
        best_dice_bisection(maps, [segs[0], segs[1][1:], segs[2]])
    with pytest.raises(ValueError, match="no lesion validation volume has a lesion"):
        best_dice_bisection(maps, [np.zeros_like(seg) for seg in segs])
    with pytest.raises(ValueError, match="NaN"):
        best_dice_bisection([np.array([np.nan, 1.0])], [np.array([True, False])])
    with pytest.raises(ValueError, match=r"lie in \(0, 1\), got 5"):
        at_false_positive_rate(maps, segs, 5)
    with pytest.raises(ValueError, match="no brain voxel"):
        at_false_positive_rate([], [], 0.1)
    with pytest.raises(ValueError, match="NaN"):
        at_false_positive_rate([np.array([np.nan])], [np.array([True])], 0.5)
