"""Table, plot and file of a result at several times."""

import math

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lightning_cim as cim
from lightning_cim.evaluation.journal import CHIP_TIMES, CHIPS
from lightning_cim.evaluation.retention_result import RetentionResult

mpl.use("Agg")

HOUR, MONTH, YEAR = 3600.0, 30 * 86400.0, 365 * 86400.0
ABOUT = {"variation": "Drift(nu=0.05)", "seed": 3}


def filled(chips=200, times=(1.0, HOUR, 86400.0, MONTH, YEAR)):
    rng = np.random.default_rng(0)
    rows = {}
    for chip in range(chips):
        for time in times:
            decay = 0.02 + 0.03 * math.log10(time)
            rows[chip, time] = {"test/acc": 0.95 - decay * rng.random(), "test/loss": 0.1 + 3 * decay * rng.random()}
    return RetentionResult.from_rows(rows, ABOUT)


@pytest.fixture
def result():
    return filled()


def test_each_time_holds_its_own_chips(result):
    assert result.times == [1.0, HOUR, 86400.0, MONTH, YEAR]
    assert result.metrics == ["test/acc", "test/loss"]
    assert result.at("1h") is result.at(3600) is result.results[HOUR]
    assert result.at("30 days") is result.results[MONTH]
    assert result.at(HOUR).chips == list(range(200))
    assert result.at("1h").about == {**ABOUT, "time": "1 h"}


def test_a_time_that_rounds_is_found():
    assert 1.1 * HOUR != 66 * 60.0
    result = filled(2, times=(1.1 * HOUR,))
    assert result.at("66 min") is result.results[1.1 * HOUR]


def test_a_time_without_chips_is_refused(result):
    with pytest.raises(ValueError, match="no chip was evaluated at 2 h; the times are 1 s, 1 h, 1 d, 1 mo, 1 y"):
        result.at("2h")
    with pytest.raises(ValueError, match="such as '1h', got 'late'"):
        result.at("late")


def test_table_has_a_row_for_each_time(result):
    lines = result.table("test/loss", k=10).splitlines()
    assert lines[0].split("  ")[0] == "metric"
    assert "KPP 10 % [95 % interval]" in lines[0]
    assert [line.split()[:3] for line in lines[2:7]] == [
        ["test/loss", *time.split()] for time in ("1 s", "1 h", "1 d", "1 mo", "1 y")
    ]
    for line, at in zip(lines[2:7], result.results.values(), strict=True):
        assert f"{at.mean('test/loss'):.4f} ± {at.ci95('test/loss'):.4f}  {at.std('test/loss'):.4f}" in line
        assert str(at.kpp("test/loss", 10)) in line
        assert line.split()[-2:] == [f"{at.worst('test/loss'):.4f}", str(at.worst_chip("test/loss"))]
    assert lines[7:] == ["200 chips at each time; variation: Drift(nu=0.05), seed: 3"]


def test_printing_shows_all_metrics(result):
    lines = str(result).splitlines()
    assert [line.split()[0] for line in lines[2:12]] == ["test/acc"] * 5 + ["test/loss"] * 5
    assert lines[13] == "note: 200 chips are few for a 1 % percentile; use at least 1000."
    with pytest.raises(ValueError, match="no metric 'acc'"):
        result.table("acc")


def test_a_metric_that_is_nan_on_some_chips_is_named_not_averaged():
    rows = {(chip, time): {"acc": math.nan if chip and time > 1 else 0.5} for chip in range(3) for time in (1.0, HOUR)}
    result = RetentionResult.from_rows(rows)
    line = next(line for line in str(result).splitlines() if "1 h" in line)
    assert line.split() == ["acc", "1", "h", "NaN", "on", "2", "chips", "1"]
    mpl.pyplot.close(result.plot()[0])


@pytest.mark.parametrize("metric", ["test/acc", "test/loss"])
def test_plot_shows_mean_kpp_and_chips(result, metric):
    figure, axes = result.plot(metric, k=10)
    figure.canvas.draw()
    at = list(result.results.values())
    lines = {line.get_label(): line.get_ydata() for line in axes.lines}
    assert list(lines["mean"]) == [one.mean(metric) for one in at]
    (bars,) = axes.containers
    np.testing.assert_array_equal(bars.lines[0].get_ydata(), [one.kpp(metric, 10).value for one in at])
    segments = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    expected = [(one.kpp(metric, 10).low, one.kpp(metric, 10).high) for one in at]
    np.testing.assert_allclose(segments, expected)
    (band,) = (c for c in axes.collections if c.get_label().startswith("chips"))
    corners = band.get_paths()[0].vertices
    for time, one in result.results.items():
        ends = np.unique(corners[corners[:, 0] == time, 1])
        np.testing.assert_allclose(ends, np.quantile(one.of(metric), [0.1, 0.9]))
    assert axes.get_ylabel() == metric
    assert axes.get_xscale() == "log"
    assert axes.get_title() == "200 simulated chips"
    mpl.pyplot.close("all")


def ticks(result):
    figure, axes = result.plot("test/acc", k=50)
    figure.canvas.draw()
    labels = {label.get_text(): x for label, x in zip(axes.get_xticklabels(), axes.get_xticks(), strict=True)}
    assert not [tick for tick in axes.get_xticklabels(minor=True) if tick.get_text()]
    mpl.pyplot.close("all")
    return labels


def test_ticks_are_units_of_time(result):
    units = {"1 s": 1.0, "1 min": 60.0, "1 h": HOUR, "1 d": 86400.0, "1 mo": MONTH, "1 y": YEAR}
    assert ticks(result) == units
    assert ticks(filled(2, times=(20.0, 2 * HOUR))) == {"1 min": 60.0, "1 h": HOUR}
    assert ticks(filled(2, times=(YEAR, 10 * YEAR))) == {"1 y": YEAR, "10 y": 10 * YEAR}


def test_ticks_are_the_times_where_they_lie_close(result):
    assert ticks(filled(2, times=(2 * HOUR, 5 * HOUR))) == {"2 h": 2 * HOUR, "5 h": 5 * HOUR}
    assert ticks(filled(2, times=(HOUR,))) == {"1 h": HOUR}


@pytest.mark.parametrize("chips", [1, 2, 5])
def test_few_chips_can_be_shown(chips):
    """Their percentile interval is open, or does not even hold the interpolated percentile."""
    result = filled(chips)
    figure, axes = result.plot("test/loss")
    figure.canvas.draw()
    assert axes.get_title() == f"{chips} simulated chips"
    assert f"{chips} chips at each time" in str(result)
    mpl.pyplot.close("all")


def test_plot_draws_where_it_is_told_and_asks_which_metric(result):
    _, given_axes = mpl.pyplot.subplots()
    assert result.plot(ax=given_axes)[1] is given_axes
    mpl.pyplot.close("all")
    two = RetentionResult({1.0: cim.ChipResult({"acc": np.ones(2), "f1": np.ones(2)}, [0, 1])})
    with pytest.raises(ValueError, match=r'which metric\? one of \["acc", "f1"\]'):
        two.plot()


@given(
    keys=st.lists(st.tuples(st.integers(0, 99), st.floats(1e-9, 1e12)), min_size=1, max_size=12, unique=True),
    data=st.data(),
)
@settings(max_examples=50, deadline=None)
def test_csv_round_trip_is_exact(tmp_path_factory, keys, data):
    rows = {key: {name: data.draw(st.floats(allow_nan=False)) for name in ("acc", 'a "b", c')} for key in keys}
    result = RetentionResult.from_rows(rows, ABOUT)
    path = tmp_path_factory.mktemp("times") / "deep" / "chips.csv"
    result.to_csv(path)
    assert CHIP_TIMES.read(path) == (ABOUT, dict(sorted(rows.items())))
    read = RetentionResult.from_csv(path)
    assert (read.times, read.about) == (result.times, ABOUT)
    for time in read.times:
        assert read.at(time).chips == result.results[time].chips
        assert read.at(time).about == result.results[time].about
        for name in read.metrics:
            np.testing.assert_array_equal(read.at(time).of(name), result.results[time].of(name))


def test_times_that_lie_close_are_told_apart():
    times = (990999670339.0, 990999671327.0)  # equal to nine digits, as isclose compares
    result = RetentionResult.from_rows({(0, times[0]): {"acc": 0.1}, (0, times[1]): {"acc": 0.2}}, ABOUT)
    assert [result.at(time).of("acc")[0] for time in times] == [0.1, 0.2]


def test_files_with_and_without_times_are_told_apart(result, tmp_path):
    timed, plain = tmp_path / "timed.csv", tmp_path / "plain.csv"
    result.to_csv(timed)
    result.at("1h").to_csv(plain)
    with pytest.raises(ValueError, match=r"timed\.csv, line 1: not a file of chips but of chips at several times"):
        cim.ChipResult.from_csv(timed)
    with pytest.raises(ValueError, match=r"plain\.csv, line 1: not a file of chips at several times but of chips"):
        RetentionResult.from_csv(plain)


def test_a_broken_line_is_named(result, tmp_path):
    path = tmp_path / "chips.csv"
    result.to_csv(path)
    for line in ("7", "7,1.0", "7,soon,0.5,0.5", "7,1.0,0.5,0.5,0.5"):
        path.write_text("\n".join([*path.read_text().splitlines()[:4], line, ""]))
        with pytest.raises(ValueError, match=rf"chips\.csv, line 5: expected 4 numbers, got '{line}'"):
            RetentionResult.from_csv(path)


def test_no_chips_are_no_result(tmp_path):
    with pytest.raises(ValueError, match="there is no chip at any time"):
        RetentionResult({})
    CHIP_TIMES.write(tmp_path / "chips.csv", {}, {})
    with pytest.raises(ValueError, match=r"chips\.csv holds no chip yet"):
        RetentionResult.from_csv(tmp_path / "chips.csv")
    CHIPS.write(tmp_path / "empty.csv", {}, {})
    with pytest.raises(ValueError, match="not a file of chips at several times but of chips"):
        RetentionResult.from_csv(tmp_path / "empty.csv")
    with pytest.raises(ValueError, match="the metrics must be the same at all times"):
        RetentionResult.from_rows({(0, 1.0): {"acc": 1.0}, (0, 2.0): {"f1": 1.0}})


def test_times_that_lack_chips_say_so():
    whole = {(chip, time): {"acc": 0.5} for chip in range(3) for time in (1.0, HOUR)}
    del whole[2, HOUR]
    result = RetentionResult.from_rows(whole)
    assert "\n2 to 3 chips at each time" in str(result)
    figure, axes = result.plot()
    assert axes.get_title() == "2 to 3 simulated chips"
    mpl.pyplot.close(figure)
