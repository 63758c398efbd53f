"""What the report says, draws, writes and exports."""

import copy
import csv
import io
import json
import math

import numpy as np
import pytest
import torch

import lightning_cim as cim
from lightning_cim.programming.curve import Point, curve_of
from lightning_cim.programming.program import program
from lightning_cim.programming.verified import VerifiedChip
from tests.evaluation.toys import dataset
from tests.programming.toys import NAMES, VARIATION, accuracy, batches, net, scripted


def report_of(model, **options):
    settings = {"validation": batches(seed=1), "chips": 4, "progress": False, "sensitivity": scripted(model), **options}
    return program(model, batches(), VARIATION, **settings)


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def report(model):
    return report_of(model, verify_fraction=0.5, granularity=0.25)


def curve(*rows, score_name="accuracy"):
    points = [[Point(*point) for point in row] for row in rows]
    return curve_of(points, "swim", score_name, 0.9, {"seed": 7})


def test_the_table_of_a_curve():
    found = curve([(0, 0, 0.1, 0.5), (0.05, 0.05, 0.145, 0.8)], [(0, 0, 0.1, 0.7), (0.05, 0.05, 0.145, 0.9)])
    assert found.table().splitlines() == [
        "verified  NWC verify  NWC total  accuracy mean ± 95 %  drop",
        "--------  ----------  ---------  --------------------  ------",
        "0.0 %     0.000       0.100      0.6000 ± 0.1960       0.3000",
        "5.0 %     0.050       0.145      0.8500 ± 0.0980       0.0500",
        "swim; ideal accuracy 0.9000; 2 chips, seed: 7",
    ]
    assert found.mean == pytest.approx([0.6, 0.85])
    assert found.ci95 == pytest.approx([1.96 * math.sqrt(0.02) / math.sqrt(2), 1.96 * math.sqrt(0.005) / math.sqrt(2)])


def test_a_loss_drops_upwards_and_one_chip_has_no_interval():
    found = curve([(0, 0, 0.1, 1.5)], score_name="loss")
    assert found.table().splitlines()[2].split() == ["0.0", "%", "0.000", "0.100", "1.5000", "0.6000"]
    assert np.isnan(found.ci95).all()


def test_a_chip_that_stopped_keeps_its_last_point():
    found = curve([(0, 0, 0.1, 0.8)], [(0, 0, 0.1, 0.4), (0.5, 0.5, 0.55, 0.9)])
    assert found.scores.tolist() == [[0.8, 0.4], [0.8, 0.9]]
    assert found.fraction.tolist() == [[0, 0], [0, 0.5]]


def test_reading_a_curve_between_its_points():
    found = curve([(0, 0, 0.1, 0.5), (0.1, 0.1, 0.19, 0.9)])
    assert found.at(0.05) == pytest.approx(0.7)
    assert found.at(0.19, axis="nwc_total") == pytest.approx(0.9)
    with pytest.raises(ValueError, match=r"has fraction from 0 to 0.1, not 0.2"):
        found.at(0.2)
    with pytest.raises(ValueError, match="axis must be one of"):
        found.at(0.1, axis="cycles")


def test_the_report_says_what_was_done(report):
    said = str(report)
    assert "verified 50.0 % of 48 weights; NWC 0.500 (verifying only), 0.550 (all writes)" in said
    for name, size in (("0.weight", 32), ("2.weight", 16)):
        assert f"{name}   {size}       {100 * report.share[name]:.1f} %" in said
    assert f"variation: {VARIATION}, residual: Gaussian(sigma=0.03), seed: 0" in said


def test_shares_of_layers_add_up(model):
    budget = report_of(model, max_drop=0.03, granularity=0.125)
    assert len(set(budget.stops)) > 1
    by_hand = {name: np.mean([budget.verified(r)[name].double().mean() for r in range(4)]) for name in NAMES}
    assert budget.share == pytest.approx(by_hand)
    assert (32 * budget.share["0.weight"] + 16 * budget.share["2.weight"]) / 48 == pytest.approx(budget.fraction)
    assert f"({100 * budget.fractions.min():.1f} to {100 * budget.fractions.max():.1f} % over chips)" in str(budget)


def test_chips_of_the_report_score_what_it_says(model, report):
    data = dataset(96, seed=1)
    for r in range(4):
        chip = report.chip(r)
        assert isinstance(chip, VerifiedChip)
        assert accuracy(model, cim.chip_weights(model, chip), data) == pytest.approx(report.scores[r])
    assert report.score == pytest.approx(report.curve.mean[-1])


def test_an_export_loads_without_the_package(model, report):
    buffer = io.BytesIO()
    torch.save(report.export(model, 2), buffer)
    buffer.seek(0)
    found = torch.load(buffer, weights_only=True)
    plain = copy.deepcopy(model)
    plain.load_state_dict(found["state_dict"], strict=True)
    assert list(found["state_dict"]) == list(model.state_dict())
    assert accuracy(plain, {}, dataset(96, seed=1)) == pytest.approx(report.scores[2])
    assert all(torch.equal(found["verified"][name], report.verified(2)[name]) for name in NAMES)
    assert (found["chip"], found["seed"]) == (2, 0)
    assert all(torch.equal(found["state_dict"][name], model.state_dict()[name]) for name in ("0.bias", "2.bias"))


@pytest.mark.parametrize("r", [-1, 4])
def test_chips_that_were_not_programmed(model, report, r):
    for ask in (report.chip, report.verified, lambda r: report.weights(model, r), lambda r: report.export(model, r)):
        with pytest.raises(IndexError, match=f"chips 0 to 3 were programmed, not {r}"):
            ask(r)


def test_several_curves_on_one_plot(model, report):
    pytest.importorskip("matplotlib").use("Agg")
    other = report_of(model, verify_fraction=0.5, granularity=0.25, method="random")
    figure, axes = report.plot()
    again, same = other.plot(axes, label="chance")
    assert (again, same) == (figure, axes)
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines) == ["swim", "ideal", "chance"]
    assert lines["swim"].get_xdata() == pytest.approx([0, 0.25, 0.5])
    assert lines["chance"].get_ydata() == pytest.approx(other.curve.mean)
    assert len(axes.collections) == 2
    _, total = report.plot(axis="nwc_total")
    assert total.get_lines()[0].get_xdata() == pytest.approx([0.1, 0.325, 0.55])


def test_the_csv_has_every_chip_and_point(report, tmp_path):
    path = tmp_path / "new" / "curve.csv"
    report.to_csv(path)
    head, *lines = path.read_text().splitlines()
    about = json.loads(head.removeprefix("# lightning_cim programming "))
    assert about["method"] == "swim"
    assert about["ideal"] == report.curve.ideal
    rows = list(csv.DictReader(lines))
    assert len(rows) == 4 * 3
    for row in rows:
        chip, point = int(row["chip"]), int(row["point"])
        for column, values in (("score", report.curve.scores), ("nwc_total", report.curve.nwc_total)):
            assert float(row[column]) == values[point, chip]


def test_the_journal_has_the_layout_of_the_csv(model, report, tmp_path):
    written, journal = tmp_path / "curve.csv", tmp_path / "journal.csv"
    report.to_csv(written)
    report_of(model, verify_fraction=0.5, granularity=0.25, csv=journal)
    assert written.read_text().splitlines()[1:] == journal.read_text().splitlines()[1:]
