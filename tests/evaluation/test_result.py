"""Statistics, table, plot and file of a result."""

import math

import matplotlib as mpl
import numpy as np
import pytest

import lightning_cim as cim

mpl.use("Agg")


@pytest.fixture
def result():
    rng = np.random.default_rng(0)
    values = {"test/acc": rng.random(200), "test/loss": rng.random(200)}
    return cim.ChipResult(values, list(range(200)), {"variation": "Gaussian(sigma=0.1)", "seed": 3})


def test_statistics_equal_numpys(result):
    accuracy, loss = result.values["test/acc"], result.values["test/loss"]
    assert result.mean("test/acc") == pytest.approx(accuracy.mean())
    assert result.std("test/acc") == pytest.approx(accuracy.std(ddof=1))
    assert result.ci95("test/acc") == pytest.approx(1.96 * accuracy.std(ddof=1) / math.sqrt(200))
    assert result.kpp("test/acc", 10).value == pytest.approx(np.quantile(accuracy, 0.1))
    assert result.kpp("test/loss", 10).value == pytest.approx(np.quantile(loss, 0.9))
    assert (result.worst("test/acc"), result.worst_chip("test/acc")) == (accuracy.min(), accuracy.argmin())
    assert (result.worst("test/loss"), result.worst_chip("test/loss")) == (loss.max(), loss.argmax())


def test_the_only_metric_that_is_no_loss_needs_no_name(result):
    assert result.mean() == result.mean("test/acc")
    assert cim.ChipResult({"loss": np.ones(2)}, [0, 1]).mean() == 1.0
    two = cim.ChipResult({"acc": np.ones(2), "f1": np.ones(2)}, [0, 1])
    with pytest.raises(ValueError, match=r'which metric\? one of \["acc", "f1"\]'):
        two.mean()
    with pytest.raises(ValueError, match=r'no metric "?\'?accuracy\'?; there are \["acc", "f1"\]'):
        two.mean("accuracy")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test/loss", True),
        ("loss_epoch", True),
        ("val-error", True),
        ("rmse/dataloader_idx_0", True),
        ("test/acc", False),
        ("lossless", False),
        ("psnr", False),
    ],
)
def test_lower_is_better_is_judged_by_words(name, expected):
    assert cim.ChipResult({name: np.ones(1)}, [0]).is_lower_better(name) is expected


def test_lower_is_better_can_be_said():
    values = {"distance": np.array([1.0, 2.0]), "loss": np.array([1.0, 2.0])}
    result = cim.ChipResult(values, [0, 1], lower_is_better=("distance",))
    assert result.worst("distance") == 2.0
    assert result.worst("loss") == 1.0


def test_table(result):
    lines = str(result).splitlines()
    assert lines[0].split("  ")[0] == "metric"
    assert lines[2].startswith(f"test/acc   {result.mean('test/acc'):.4f} ± {result.ci95('test/acc'):.4f}")
    assert str(result.kpp("test/acc")) in lines[2]
    assert lines[4] == "200 chips; variation: Gaussian(sigma=0.1), seed: 3"
    assert lines[5] == "note: 200 chips are few for a 1 % percentile; use at least 1000."
    assert len(result.table(k=10).splitlines()) == 5


def test_single_chip_has_no_spread():
    single = cim.ChipResult({"acc": np.array([0.5])}, [0])
    assert math.isnan(single.std())
    assert "0.5000" in single.table()


def test_plot_has_every_chip_and_the_marks(result):
    figure, axes = result.plot("test/acc", k=10)
    assert [line.get_xdata()[0] for line in axes.lines] == [result.kpp("test/acc", 10).value, result.mean("test/acc")]
    bars = axes.containers[0]
    assert sum(bar.get_height() for bar in bars) == 200
    assert axes.get_xlabel() == "test/acc"
    _, given = mpl.pyplot.subplots()
    assert result.plot("test/acc", ax=given)[1] is given
    mpl.pyplot.close("all")
    assert figure is not None


def test_csv_round_trip_is_exact(result, tmp_path):
    path = tmp_path / "deep" / "chips.csv"
    result.to_csv(path)
    read = cim.ChipResult.from_csv(path)
    assert read.metrics == result.metrics
    assert read.chips == result.chips
    assert read.about == result.about
    for name in result.metrics:
        assert np.array_equal(read.values[name], result.values[name])


def test_names_with_commas_and_quotes_survive_the_file(tmp_path):
    result = cim.ChipResult({'a "b", c': np.array([1.5])}, [7])
    result.to_csv(tmp_path / "chips.csv")
    assert cim.ChipResult.from_csv(tmp_path / "chips.csv").values.keys() == result.values.keys()


def test_rows_are_put_in_the_order_of_the_chips():
    result = cim.ChipResult.from_rows({2: {"acc": 0.2}, 0: {"acc": 0.0}, 1: {"acc": 0.1}})
    assert result.chips == [0, 1, 2]
    assert result.of("acc").tolist() == [0.0, 0.1, 0.2]


def test_a_metric_that_is_nan_on_some_chips_is_named_not_averaged():
    result = cim.ChipResult({"acc": np.array([0.5, np.nan, 0.7])}, [0, 1, 2])
    line = next(line for line in result.table(k=50).splitlines() if line.startswith("acc"))
    assert line.split() == ["acc", "NaN", "on", "1", "chips", "1"]
