import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_cim.codesign import Trial, pareto_front

DIRECTIONS = {"acc": "maximize", "energy": "minimize", "area": "minimize"}
POINTS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=25)


def trials_of(points, status="ok"):
    return [
        Trial({}, dict(zip(DIRECTIONS, map(float, point), strict=True)), 0.0, status, number=number)
        for number, point in enumerate(points)
    ]


def dominates(a, b):
    at_least = a[0] >= b[0] and a[1] <= b[1] and a[2] <= b[2]
    return at_least and a != b


@given(POINTS)
def test_the_front_is_what_no_other_point_dominates(points):
    found = {trial.number for trial in pareto_front(trials_of(points), DIRECTIONS)}
    expected = {n for n, p in enumerate(points) if not any(dominates(q, p) for q in points) and p not in points[:n]}
    assert found == expected


def test_invalid_trials_are_left_out_and_missing_goals_are_an_error():
    assert pareto_front(trials_of([(1, 1, 1)], "invalid"), DIRECTIONS) == []
    with pytest.raises(ValueError, match="trial 0 has no metric power"):
        pareto_front(trials_of([(1, 1, 1)]), {"power": "minimize"})
    with pytest.raises(ValueError, match="at least one goal"):
        pareto_front([], {})
