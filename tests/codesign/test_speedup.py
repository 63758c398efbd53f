import math

import numpy as np
import pytest

from lightning_cim.codesign import (
    TimeToTarget,
    best_at,
    budget_ratio,
    speed_up,
    speed_up_table,
    threshold_of_runs,
    thresholds_of,
    times_of,
)

BUDGET = 10_000


def geometric(rng, mean, seeds=20, budget=BUDGET):
    """Times of a search that finds the target with one chance an episode."""
    times = rng.geometric(1 / mean, seeds).astype(float)
    return TimeToTarget(tuple(np.where(times <= budget, times, math.inf)), budget)


def median_of_geometric(mean):
    return math.ceil(-1 / math.log2(1 - 1 / mean))


class TestSpeedUp:
    def test_the_interval_covers_a_known_ratio(self):
        rng = np.random.default_rng(0)
        known = median_of_geometric(300) / median_of_geometric(60)
        covered = 0
        for _ in range(200):
            found = speed_up(geometric(rng, 300), geometric(rng, 60))
            covered += found.low <= known <= found.high
        assert covered >= 180

    def test_the_interval_covers_a_known_ratio_with_a_third_of_the_seeds_censored(self):
        rng = np.random.default_rng(1)
        known = median_of_geometric(300) / median_of_geometric(60)
        covered = total = 0
        while total < 200:
            baseline = geometric(rng, 300, budget=330)
            found = speed_up(baseline, geometric(rng, 60, budget=330))
            covered += found.low <= known <= found.high
            total += 1
        assert covered >= 180

    def test_the_interval_is_not_everything(self):
        rng = np.random.default_rng(2)
        found = speed_up(geometric(rng, 300, 100), geometric(rng, 60, 100))
        assert 1 < found.low < found.ratio < found.high < 20

    def test_equal_arms_have_no_speed_up(self):
        rng = np.random.default_rng(3)
        misses = sum(
            not found.low <= 1 <= found.high
            for found in (speed_up(geometric(rng, 50), geometric(rng, 50)) for _ in range(100))
        )
        assert misses <= 10

    def test_a_censored_baseline_gives_a_bound_from_below_and_no_number(self):
        baseline = TimeToTarget((100.0,) * 2 + (math.inf,) * 18, 500)
        found = speed_up(baseline, TimeToTarget((10.0,) * 20, 500))
        assert (found.ratio, found.bound, found.low) == (None, ">=", 50.0)
        assert str(found) == ">= 50"

    def test_a_bound_is_no_higher_than_what_the_seeds_can_tell(self):
        baseline = TimeToTarget((100.0,) * 9 + (math.inf,) * 11, 500)  # its true median may well be 100
        found = speed_up(baseline, TimeToTarget((10.0,) * 20, 500))
        assert (found.bound, found.low) == (">=", 10.0)

    def test_a_censored_arm_gives_a_bound_from_above(self):
        arm = TimeToTarget((5.0,) * 2 + (math.inf,) * 18, 20)
        found = speed_up(TimeToTarget((100.0,) * 20, 500), arm)
        assert (found.ratio, found.bound, found.high) == (None, "<=", 5.0)

    def test_two_censored_arms_say_nothing(self):
        lost = TimeToTarget((math.inf,) * 20, 500)
        assert speed_up(lost, lost).bound == "?"
        assert "unknown" in str(speed_up(lost, lost))

    def test_the_bootstrap_is_seeded(self):
        rng = np.random.default_rng(4)
        a, b = geometric(rng, 300), geometric(rng, 60)
        assert speed_up(a, b, seed=1) == speed_up(a, b, seed=1)


class TestTimeToTarget:
    def test_counts_episodes_from_one(self):
        assert times_of([[0.1, 0.5, 0.9], [0.6, 0.0, 0.0], [0.0] * 3], 0.5).times == (2.0, 1.0, math.inf)

    def test_statistics(self):
        found = TimeToTarget((10.0, 30.0, math.inf, math.inf), 100)
        assert found.reached == 0.5
        assert found.median == math.inf  # between 30 and nothing
        assert found.restricted_mean == pytest.approx((10 + 30 + 100 + 100) / 4)
        assert TimeToTarget((10.0, 30.0, math.inf), 100).median == 30.0

    def test_the_interval_of_a_median_covers_it(self):
        rng = np.random.default_rng(5)
        known = median_of_geometric(200)
        covered = 0
        for _ in range(200):
            low, high = geometric(rng, 200).interval()
            covered += low <= known <= high
        assert covered >= 180

    @pytest.mark.parametrize("times", [(), (0.0,), (101.0,)])
    def test_refuses_what_is_no_time(self, times):
        with pytest.raises(ValueError, match=r"seed|times are"):
            TimeToTarget(times, 100)

    def test_refuses_seeds_of_several_budgets(self):
        with pytest.raises(ValueError, match="one budget"):
            times_of([[0.1], [0.1, 0.2]], 0.5)


class TestTable:
    def test_few_seeds_give_no_number(self):
        rows = speed_up_table({"a": [[0.0, 1.0]] * 5, "b": [[1.0, 0.0]] * 5}, {"R": 1.0}, "a")
        assert rows[2][-1] == "not given: 5 of at least 20 seeds"

    def test_no_arm_is_a_baseline_by_accident(self):
        with pytest.raises(ValueError, match="baseline 'c' is none of the arms a"):
            speed_up_table({"a": [[0.0]]}, {"R": 1.0}, "c")

    def test_censored_medians_are_written_as_bounds(self):
        rows = speed_up_table({"a": [[0.0, 0.0]] * 20, "b": [[1.0, 0.0]] * 20}, {"R": 1.0}, "a")
        assert rows[1][4] == "> 2"
        assert rows[2][-1] == ">= 2"

    def test_the_ratio_of_budgets_has_its_own_name(self):
        assert budget_ratio(500, 20).startswith("budget ratio (LCDA's definition): 500 / 20 = 25")


class TestThresholds:
    def test_are_reached_by_their_share(self):
        landscape = np.random.default_rng(6).normal(size=100_000)
        for (name, target), share in zip(thresholds_of(landscape).items(), (0.01, 0.001, 0.0001), strict=True):
            assert name == f"top {share * 100:g}%"
            assert np.mean(landscape >= target) == pytest.approx(share)

    def test_refuse_a_share_that_is_none(self):
        with pytest.raises(ValueError, match="share"):
            thresholds_of([1.0], (1.5,))

    def test_of_runs_is_the_median_of_their_best(self):
        assert threshold_of_runs([[0.1, 0.5], [0.3, 0.2], [0.9, 0.0]], 2) == 0.5
        with pytest.raises(ValueError, match="at least 5 episodes"):
            threshold_of_runs([[0.1]], 5)


def test_best_at_leaves_out_what_no_seed_came_to():
    assert best_at([[0.1, 0.3], [0.5, 0.2]], (1, 2, 20)) == {1: 0.3, 2: pytest.approx(0.4)}
