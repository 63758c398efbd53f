"""Times as texts: every label is read back as the time it came from."""

import contextlib
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lightning_cim.variation.times import SECONDS, label, seconds


@given(time=st.floats(1e-9, 1e12))
@example(59.9999)  # rounds to 60 s, not to 1 min
@example(86400.0)
@example(365 * 86400.0)
def test_labels_are_read_back_to_four_digits(time):
    assert seconds(label(time)) == pytest.approx(time, rel=5.1e-4)


@given(count=st.integers(1, 9999), unit=st.sampled_from(sorted(SECONDS)))
def test_whole_times_are_read_back_exactly(count, unit):
    time = count * SECONDS[unit]
    assert seconds(f"{count}{unit}") == seconds(f" {count} {unit.upper()} ") == time
    if label(time).endswith(f" {unit}"):
        assert label(time) == f"{count} {unit}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1s", 1.0),
        ("1 second", 1.0),
        ("90 seconds", 90.0),
        ("2 min", 120.0),
        ("1 minute", 60.0),
        ("1h", 3600.0),
        ("1.5 hours", 5400.0),
        ("1 day", 86400.0),
        ("30 Days", 2592000.0),
        ("2 d", 172800.0),
        ("1 mo", 2592000.0),
        ("12 months", 31104000.0),
        ("10 years", 315360000.0),
        ("1e3 s", 1000.0),
        ("2.5E-7s", 2.5e-7),
        (".5 h", 1800.0),
        (20, 20.0),
        (0.25, 0.25),
    ],
)
def test_times_as_people_write_them(text, expected):
    assert seconds(text) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("time", "expected"),
    [(1.0, "1 s"), (1e-6, "1e-06 s"), (60.0, "1 min"), (5400.0, "1.5 h"), (7 * 86400.0, "7 d"), (4e8, "12.68 y")],
)
def test_labels_have_the_largest_unit_that_fits(time, expected):
    assert label(time) == expected


BAD = [
    "",
    "h",
    "1",
    "1 fortnight",
    "1 hs",
    "1h30",
    "1 h 30 min",
    "-1 h",
    "0 s",
    "1.2.3 s",
    ". s",
    "1e s",
    "1e999 s",
    "nan s",
    "inf s",
    "٣ s",
    0,
    0.0,
    -3.0,
    math.nan,
    math.inf,
    True,
    None,
    [1.0],
    b"1h",
]


@pytest.mark.parametrize("time", BAD, ids=repr)
def test_what_is_no_time_is_refused(time):
    with pytest.raises(ValueError, match=r"must be seconds > 0, or a number with one of s, min, h, d, mo, y") as found:
        seconds(time)
    assert repr(time) in str(found.value)


def test_a_number_that_no_float_holds_is_refused():
    with pytest.raises(ValueError, match="must be seconds > 0"):
        seconds(10**400)


@given(text=st.text(max_size=12) | st.from_regex(r"[0-9.eE+-]{0,6} ?[a-zA-Z]{0,7}", fullmatch=True))
@example("1 S")
def test_any_text_is_a_time_or_a_value_error(text):
    time = 1.0
    with contextlib.suppress(ValueError):
        time = seconds(text)
    assert 0 < time < math.inf
