"""The schedule against the authors' numbers, and scaled."""

import pytest

from recipes.gaussian_image.schedule import RATES, Schedule, schedule_scale


def iterations(schedule, wanted):
    """First and last iteration, counted from 1, of each stretch of steps that fulfil a condition."""
    hits = [False, *(wanted(schedule.at(step)) for step in range(schedule.steps)), False]
    starts = [it for it in range(1, schedule.steps + 1) if hits[it] and not hits[it - 1]]
    ends = [it for it in range(1, schedule.steps + 1) if hits[it] and not hits[it + 1]]
    return list(zip(starts, ends, strict=True))


@pytest.mark.parametrize(
    ("levels", "ends"),
    [(1, [15_000]), (2, [9_000, 15_000]), (3, [3_000, 9_000, 15_000]), (4, [1_500, 4_500, 9_000, 15_000])],
)
def test_levels_change_where_the_authors_change_them(levels, ends):
    schedule = Schedule.published(levels=levels)
    starts = [1, *(end + 1 for end in ends[:-1])]
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        level = levels - 1 - number
        assert iterations(schedule, lambda stage, level=level: stage.level == level) == [(start, end)]


def test_noise_and_rate_begin_where_the_authors_begin_them():
    schedule = Schedule.published()
    assert iterations(schedule, lambda stage: stage.noise == "none") == [(1, 300), (3_001, 3_600), (9_001, 9_600)]
    assert iterations(schedule, lambda stage: stage.noise == "base") == [(301, 3_000), (3_601, 9_000), (9_601, 12_000)]
    assert iterations(schedule, lambda stage: stage.noise == "adaptive") == [(12_001, 15_000)]
    assert iterations(schedule, lambda stage: stage.noise == "rounded") == []


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_the_authors(name):
    schedule = Schedule.published()
    first, last = RATES[name]
    assert schedule.lr(name, 0) == first
    assert schedule.lr(name, 15_000) == pytest.approx((first * last) ** 0.5)  # half way to step 30,000
    assert schedule.lr(name, 7_500) == pytest.approx(first**0.75 * last**0.25)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_ours_gives_more_of_the_run_to_the_full_size(levels):
    ours, published = Schedule(1000, levels), Schedule.published(1000, levels)
    for level in range(levels):
        (start, end), (theirs, last) = (
            iterations(schedule, lambda stage, level=level: stage.level == level)[0] for schedule in (ours, published)
        )
        assert (start, end) != (theirs, last)
        assert (end - start > last - theirs) == (level == 0)


@pytest.mark.parametrize("steps", [800, 2500])
def test_a_short_run_passes_the_same_stages_with_larger_steps(steps):
    short, full = Schedule.published(steps), Schedule.published()
    for step in range(0, steps, 7):
        at = round((step + 0.5) / steps * 15_000)  # the middle: a step stands for many
        if all(short.at(near) == short.at(step) for near in (max(step - 1, 0), min(step + 1, steps - 1))):
            assert short.at(step) == full.at(at)
    assert short.lr("feature", 0) == schedule_scale(steps) * full.lr("feature", 0)
    assert Schedule.published(steps, scale=1.0).lr("feature", 0) == full.lr("feature", 0)


def test_ours_ends_rounded_with_learning_rates_near_zero():
    ours = Schedule(1000)
    assert [ours.at(step).noise for step in (0, 90, 200, 799, 800, 999)] == [
        "none", "base", "adaptive", "adaptive", "rounded", "rounded",
    ]  # fmt: skip
    assert ours.lr("shape_mlp", 999) < 1e-3 * ours.lr("shape_mlp", 700)
    assert ours.lr("offset", 0) == pytest.approx(3 * Schedule.published(1000).lr("offset", 0))


def test_scale_falls_with_length_and_is_bounded():
    scales = [schedule_scale(steps) for steps in (1, 100, 1000, 5000, 15_000, 30_000)]
    assert scales[0] == 5
    assert scales == sorted(scales, reverse=True)
    assert schedule_scale(15_000) == 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"levels": 5}, "levels=5"),
        ({"steps": 0}, "steps=0"),
        ({"rate_from": 1.5}, "rate_from"),
        ({"scale": 0.0}, "scale"),
    ],
)
def test_options_out_of_range_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**{"steps": 10, **bad})
