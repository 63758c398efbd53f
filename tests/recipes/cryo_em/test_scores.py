import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.cryo_em.fsc import fourier_shell_correlation
from recipes.cryo_em.scores import auroc, motion_amplitude, motion_correlation, score_states, spearman

numbers = st.lists(st.integers(-3, 3).map(float), min_size=3, max_size=30)


@pytest.fixture
def truth():
    return torch.randn(5, 8, 8, 8, generator=torch.Generator().manual_seed(0))


def test_motion_correlation_is_pearsons_of_the_differences(truth):
    volumes = truth + torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    a, b = (np.asarray(x - x.mean(0)).ravel() for x in (volumes, truth))
    assert motion_correlation(volumes, truth) == pytest.approx(np.corrcoef(a, b)[0, 1], abs=1e-6)


def test_a_single_map_has_no_motion_however_good(truth):
    still = truth.mean(0).expand(5, -1, -1, -1)
    assert motion_correlation(still, truth) == 0
    assert motion_correlation((1 / 3) * still, truth) == 0
    assert motion_amplitude(still) == 0


def test_scale_does_not_matter_but_sign_does(truth):
    assert motion_correlation(7 * truth, truth) == pytest.approx(1)
    assert motion_correlation(-truth, truth) == pytest.approx(-1)
    assert motion_amplitude(7 * truth) == pytest.approx(motion_amplitude(truth))


def test_states_are_scored_one_by_one(truth):
    volumes = truth + torch.linspace(0.1, 2, 5).view(5, 1, 1, 1) * torch.randn(truth.shape)
    mask = torch.rand(8, 8, 8)
    found = score_states(volumes, truth, 2.0, mask=mask, mobile=mask)
    alone = [fourier_shell_correlation(v * mask, t, 2.0) for v, t in zip(volumes, truth, strict=True)]
    aucs = [float(curve.auc) for curve in alone]
    assert found.auc_mean == pytest.approx(np.mean(aucs))
    assert found.auc_worst == pytest.approx(min(aucs))
    assert found.resolution == pytest.approx(np.mean([float(curve.resolution()) for curve in alone]))
    near = [
        float(fourier_shell_correlation(v * mask**2, t * mask, 2.0).auc) for v, t in zip(volumes, truth, strict=True)
    ]
    assert found.auc_mobile == pytest.approx(np.mean(near))
    assert set(found.numbers()) >= {"motion", "auc_worst", "amplitude"}


def test_different_numbers_of_states_are_refused(truth):
    with pytest.raises(ValueError, match="want two"):
        score_states(truth[:2], truth, 1.0)


@settings(max_examples=60, deadline=None)
@given(numbers, st.randoms())
def test_spearman_equals_scipys(values, random):
    stats = pytest.importorskip("scipy.stats")
    other = values.copy()
    random.shuffle(other)
    if len(set(values)) == 1:
        assert spearman(torch.tensor(values), torch.tensor(other)) == 0
        return
    assert spearman(torch.tensor(values), torch.tensor(other)) == pytest.approx(
        stats.spearmanr(values, other).statistic, abs=1e-9
    )


@settings(max_examples=60, deadline=None)
@given(numbers, st.data())
def test_auroc_is_the_share_of_pairs_in_order(values, data):
    positive = data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    hits = [v for v, p in zip(values, positive, strict=True) if p]
    misses = [v for v, p in zip(values, positive, strict=True) if not p]
    if not hits or not misses:
        with pytest.raises(ValueError, match="both kinds"):
            auroc(torch.tensor(values), torch.tensor(positive))
        return
    pairs = [1.0 if h > m else 0.5 if h == m else 0.0 for h in hits for m in misses]
    assert auroc(torch.tensor(values), torch.tensor(positive)) == pytest.approx(np.mean(pairs))
