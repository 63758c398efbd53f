import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.scores import (
    auroc,
    average_precision,
    best_dice,
    dice,
    false_positive_rate,
    score,
    slice_scores,
)
from recipes.brain_mri.thresholds import Threshold


def sample(seed, levels):
    """Scores with many ties, as maps have them in the background."""
    draw = np.random.default_rng(seed)
    seg = draw.random(60) > 0.7
    return np.round(np.clip(draw.normal(0.3 + 0.3 * seg, 0.3), 0, 1) * levels) / levels, seg


@given(st.integers(0, 500), st.sampled_from([3, 10, 1000]))
def test_against_every_threshold(seed, levels):
    scores, seg = sample(seed, levels)
    if not seg.any() or seg.all():
        return
    area = previous = best = 0.0
    for threshold in sorted(set(scores), reverse=True):
        called = scores >= threshold
        true = (called & seg).sum()
        area += (true / seg.sum() - previous) * true / called.sum()
        previous = true / seg.sum()
        best = max(best, dice(called, seg))
    pairs = [(p > n) + 0.5 * (p == n) for p in scores[seg] for n in scores[~seg]]
    assert average_precision(scores, seg) == pytest.approx(area)
    assert best_dice(scores, seg) == pytest.approx(best)
    assert auroc(scores, seg) == pytest.approx(np.mean(pairs))


def test_against_sklearn():
    metrics = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        scores, seg = sample(seed, 12)
        assert average_precision(scores, seg) == pytest.approx(metrics.average_precision_score(seg, scores), abs=1e-12)
        assert auroc(scores, seg) == pytest.approx(metrics.roc_auc_score(seg, scores), abs=1e-12)
        assert dice(scores > 0.5, seg) == pytest.approx(metrics.f1_score(seg, scores > 0.5))


@pytest.mark.parametrize(
    ("predicted", "seg", "expected"),
    [
        ([1, 1, 0, 0], [1, 0, 1, 0], 0.5),
        ([1, 1, 1, 1], [0, 0, 0, 1], 0.4),
        ([0, 0, 0, 0], [0, 1, 1, 0], 0.0),
        ([1, 0, 0, 0], [0, 0, 0, 0], 0.0),
    ],
)
def test_dice_by_hand(predicted, seg, expected):
    assert dice(predicted, seg) == expected


def test_what_has_no_answer_is_nan():
    assert math.isnan(dice([0, 0], [0, 0]))
    assert math.isnan(average_precision([0.1, 0.2], [0, 0]))
    assert math.isnan(best_dice([0.1, 0.2], [0, 0]))
    assert math.isnan(auroc([0.1, 0.2], [1, 1]))
    assert math.isnan(false_positive_rate([1, 0], [0, 0]))


def test_bad_input():
    for measure in (dice, average_precision, best_dice, auroc):
        with pytest.raises(ValueError, match="differ in shape"):
            measure([0.1, 0.2], [0, 1, 1])
    with pytest.raises(ValueError, match="NaN"):
        average_precision([np.nan, 0.2], [0, 1])


def test_false_positives_are_counted_among_normal_voxels():
    predicted, mask, seg = [1, 1, 0, 0, 1], [1, 1, 1, 1, 0], [1, 0, 0, 0, 0]
    assert false_positive_rate(predicted, mask, seg) == pytest.approx(1 / 3)
    assert false_positive_rate(predicted, mask) == pytest.approx(2 / 4)


def test_volumes_are_scored_one_by_one():
    sick, healthy = phantom(0, lesion="tumour"), phantom(1)
    speck = np.zeros(sick.image.shape, np.float32)
    centre = tuple(np.argwhere(sick.mask & ~sick.seg)[0])
    speck[centre] = 0.9  # one voxel: dropped from the binary map, but not from the ranking
    maps = [np.where(sick.seg, 0.5, speck).astype(np.float32), speck]
    found = score(maps, [sick, healthy], Threshold(0.3, "given"))
    lesion = int(sick.seg.sum())
    assert found.dice[0] == 1
    assert found.fpr.tolist() == [0, 0]
    assert found.auprc[0] == pytest.approx(lesion / (lesion + 1))
    assert found.best_dice[0] == pytest.approx(2 * lesion / (2 * lesion + 1))
    normal = int((sick.mask & ~sick.seg).sum())
    assert found.auroc[0] == pytest.approx((normal - 1) / normal)
    assert np.isnan([found.dice[1], found.auprc[1], found.auroc[1], found.best_dice[1]]).all()
    assert found.mean()["dice"] == 1  # the healthy one drops out
    assert found.rows()[0]["volume"] == sick.name
    assert found.interval(draws=50)["auprc"].mean == found.mean()["auprc"]


def test_a_map_of_another_shape_is_named():
    volume = phantom(0)
    with pytest.raises(ValueError, match=f"{volume.name}: map has shape"):
        score([np.zeros((2, 2, 2), np.float32)], [volume], Threshold(0.5, "given"))


def test_slices_with_lesion_are_told_by_their_mean():
    sick, healthy = phantom(0, lesion="tumour"), phantom(1)
    maps = [np.where(sick.seg, 0.5, 0.0).astype(np.float32), np.zeros(healthy.image.shape, np.float32)]
    assert slice_scores(maps, [sick, healthy]) == {"slice_auroc": 1.0, "slice_auprc": pytest.approx(1.0)}
    assert math.isnan(slice_scores(maps[1:], [healthy])["slice_auroc"])
