import numpy as np
import pytest

from lightning_cim.codesign import CoDesignSearch, Objective, make_optimizer, rescore, winners_table
from tests.codesign.evaluators import SPACE, NoiseEvaluator

ACCURACY = Objective("weighted", weights={"acc_mean": 1.0})


def test_the_score_of_a_search_is_too_good_and_the_final_one_is_not():
    searched, final = [], []
    for seed in range(60):
        search = CoDesignSearch(
            SPACE, NoiseEvaluator(), make_optimizer("random", SPACE, seed), ACCURACY, 30, seed, progress=False
        )
        winner = rescore(search.run(), NoiseEvaluator(), top=1, seed=seed)[0]
        searched.append(winner.trial.reward)
        final.append(winner.reward)
    error = np.std(final, ddof=1) / np.sqrt(len(final))
    assert abs(np.mean(final) - 0.8) < 2 * error
    assert np.mean(searched) - 0.8 > 8 * error


def test_winners_keep_the_order_of_the_search():
    result = CoDesignSearch(
        SPACE, NoiseEvaluator(), make_optimizer("random", SPACE, 0), ACCURACY, 40, progress=False
    ).run()
    winners = rescore(result, NoiseEvaluator(), top=5)
    found = [winner.trial.reward for winner in winners]
    assert found == sorted(found, reverse=True)
    assert len({tuple(winner.trial.design.values()) for winner in winners}) == 5
    assert len(winners_table(winners)) == 7
    with pytest.raises(ValueError, match="top must be at least 1"):
        rescore(result, NoiseEvaluator(), top=0)
