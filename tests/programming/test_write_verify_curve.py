"""Curves of write-verify loops against numbers taken by hand from the loops themselves."""

import csv
import json

import numpy as np
import pytest
import torch

import lightning_cim as cim
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.programming.write_verify_curve import PREFIX, PUBLISHED_LABEL, SETTINGS, write_verify_curve

VARIATION = cim.Gaussian(0.1)
WEIGHTS = torch.linspace(-3, 3, 4001)


def by_hand(loop, variation=VARIATION, weights=WEIGHTS, unit=3.0, seed=0):
    """Residuals and write cycles of a loop that follows the first write in the same random stream."""
    draws = torch.Generator().manual_seed(seed)
    first = variation.sample(weights, draws)
    written = loop.settle(weights, first, variation, draws)
    return written.error.double().numpy() / unit, 1 + written.cycles.numpy()


@pytest.mark.parametrize(
    "loop", [WriteVerify(), WriteVerify(read_noise=0.02, max_cycles=12), WriteVerify(form="redraw")]
)
def test_statistics_are_those_of_the_loop(loop):
    curve = write_verify_curve(VARIATION, [WriteVerify(0.06), loop], weights=WEIGHTS)
    point = curve.points[1]
    residual, writes = by_hand(loop)
    assert point.loop == loop
    assert point.mean == pytest.approx(residual.mean())
    assert point.std == pytest.approx(residual.std())
    assert point.beyond == pytest.approx((abs(residual) > loop.tolerance).mean(), abs=1e-9)
    assert point.given_up == pytest.approx((writes == loop.max_cycles + 1).mean())
    assert point.writes == pytest.approx(writes.mean())
    assert point.percentiles == tuple(np.percentile(writes, (50, 90, 99), method="lower"))
    counts, _ = np.histogram(np.clip(residual, curve.edges[0], curve.edges[-1]), curve.edges)
    assert point.counts == tuple(counts)
    assert sum(point.counts) == curve.weights == 4001


def test_some_statistics_are_not_trivial():
    point = write_verify_curve(VARIATION, [WriteVerify(read_noise=0.02, max_cycles=12)]).points[0]
    assert 0.3 < point.beyond < 0.9
    assert 0.1 < point.given_up < 0.5


def test_the_standard_error_is_the_spread_over_seeds():
    points = [
        write_verify_curve(VARIATION, [WriteVerify()], weights=WEIGHTS[::4], seed=seed).points for seed in range(60)
    ]
    stds = [point.std for (point,) in points]
    errors = [point.std_error for (point,) in points]
    assert np.mean(errors) == pytest.approx(np.std(stds, ddof=1), rel=0.3)


def test_numbers_are_in_the_units_of_sigma():
    published = cim.Gaussian.published("swim", 0.1)
    plain, sliced = (write_verify_curve(v, {"tolerance": [0.036]}, weights=WEIGHTS) for v in (VARIATION, published))
    assert sliced.raw == pytest.approx(plain.raw, rel=1e-5)
    assert sliced.points[0].std == pytest.approx(plain.points[0].std, rel=1e-3)
    assert sliced.points[0].writes == pytest.approx(plain.points[0].writes, rel=1e-3)


def test_a_grid_is_every_combination_and_all_start_alike():
    curve = write_verify_curve(VARIATION, {"tolerance": [0.06, 0.03], "step": [0.01, 0.02, 0.03]}, weights=WEIGHTS)
    assert [point.loop for point in curve.points] == [
        WriteVerify(tolerance=t, step=s) for t in (0.06, 0.03) for s in (0.01, 0.02, 0.03)
    ]
    alone = write_verify_curve(VARIATION, [WriteVerify(tolerance=0.03, step=0.03)], weights=WEIGHTS)
    assert alone.points[0].statistics == curve.points[-1].statistics
    other = write_verify_curve(VARIATION, [WriteVerify(tolerance=0.03, step=0.03)], weights=WEIGHTS, seed=1)
    assert other.points[0].statistics != curve.points[-1].statistics


def test_sigma_0_1_becomes_0_03_in_about_ten_writes_but_not_with_the_remembered_tolerance():
    """The answer that docs/methods.md gives; its figure is benchmarks/write_verify.py's."""
    steps = [0.003, 0.004, 0.0055]
    curve = write_verify_curve(VARIATION, {"tolerance": [0.036, 0.06], "step": steps})
    found = {(point.loop.tolerance, point.loop.step): point for point in curve.points}
    best = found[0.036, 0.0055]
    assert best.std == pytest.approx(0.03, abs=0.0005)
    assert best.writes == pytest.approx(10, abs=0.5)
    assert all(found[0.06, step].std > 0.047 for step in steps)
    assert found[0.06, 0.003].writes > 11
    assert found[0.06, 0.0055].writes < 9


def test_table_names_what_differs_and_what_does_not():
    curve = write_verify_curve(VARIATION, {"tolerance": [0.06, 0.03], "step": [0.01]}, weights=WEIGHTS)
    head, _, first, second, footer = str(curve).splitlines()
    assert head.split()[:3] == ["tolerance", "residual", "mean"]
    assert first.startswith("0.06 ")
    assert second.startswith("0.03 ")
    assert f"{curve.points[0].std:.4f}" in first
    assert f"{curve.points[1].writes:.2f}" in second
    assert "Gaussian(sigma=0.1)" in footer
    assert "step=0.01" in footer
    assert "tolerance=" not in footer


def test_plot_has_a_line_for_loops_that_differ_in_step_only():
    plt = pytest.importorskip("matplotlib.pyplot")
    curve = write_verify_curve(VARIATION, {"tolerance": [0.06, 0.03], "step": [0.03, 0.01]}, weights=WEIGHTS)
    _, ax = curve.plot()
    found = {bar.get_label(): bar.lines[0].get_xydata() for bar in ax.containers}
    assert set(found) == {"tolerance 0.06", "tolerance 0.03"}
    expected = [(point.writes, point.std) for point in (curve.points[1], curve.points[0])]
    assert found["tolerance 0.06"] == pytest.approx(np.array(expected))
    curve.plot(ax)
    assert [line.get_label() for line in ax.get_lines()].count(PUBLISHED_LABEL) == 1
    _, other = write_verify_curve(cim.Gaussian(0.2), [WriteVerify()], weights=WEIGHTS).plot()
    assert PUBLISHED_LABEL not in [line.get_label() for line in other.get_lines()]
    plt.close("all")


def test_csv_holds_settings_statistics_and_histogram(tmp_path):
    curve = write_verify_curve(VARIATION, {"tolerance": [0.06, 0.03]}, weights=WEIGHTS)
    path = tmp_path / "new" / "curve.csv"
    curve.to_csv(path)
    comment, *lines = path.read_text(encoding="utf-8").splitlines()
    about = json.loads(comment.removeprefix(PREFIX))
    assert about == {"variation": "Gaussian(sigma=0.1)", "raw": curve.raw, "weights": 4001, "seed": 0}
    rows = list(csv.DictReader(lines))
    assert len(rows) == 2
    for row, point in zip(rows, curve.points, strict=True):
        assert {name: row[name] for name in SETTINGS} == {name: str(getattr(point.loop, name)) for name in SETTINGS}
        assert float(row["std"]) == point.std
        assert float(row["writes_p99"]) == point.percentiles[-1]
        counts = {name: int(value) for name, value in row.items() if name.startswith("count_")}
        assert tuple(counts.values()) == point.counts
        assert list(counts)[20] == "count_0"


def test_a_null_variation_needs_no_cycle():
    point = write_verify_curve(cim.Gaussian(0.0), [WriteVerify()], weights=WEIGHTS).points[0]
    assert (point.mean, point.std, point.std_error, point.writes) == (0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("loops", "weights", "message"),
    [
        ([], None, "one loop or more"),
        ({"tolerance": []}, None, "one loop or more"),
        ({"tolerence": [0.1]}, None, "no argument tolerence; it has tolerance, step"),
        ({"tolerance": [-1.0]}, None, "tolerance must be a finite number > 0"),
        ([WriteVerify()], torch.zeros(3), "not all 0"),
        ([WriteVerify()], torch.tensor([1.0, float("nan")]), "finite numbers"),
    ],
)
def test_arguments_without_meaning_are_refused(loops, weights, message):
    with pytest.raises(ValueError, match=message):
        write_verify_curve(VARIATION, loops, weights=weights)
