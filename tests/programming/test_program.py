"""Programming against a slow loop by hand, its promises, and SWIM on digits."""

import copy

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import lightning_cim as cim
from lightning_cim.programming.program import program
from lightning_cim.programming.sensitivity import sensitivity
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify
from tests.evaluation.toys import dataset
from tests.programming.programmed import VALIDATION, programmed
from tests.programming.toys import (
    NAMES,
    VARIATION,
    accuracy,
    accuracy_on,
    batches,
    masks_by_hand,
    net,
    order_by_hand,
    scripted,
)


def test_the_curve_equals_a_loop_by_hand():
    model = net()
    report = programmed(model, verify_fraction=0.5, granularity=0.125)
    order = order_by_hand(model, scripted(model))
    assert report.ranking.weights == len(order) == 48
    counts = [0, 6, 12, 18, 24]
    expected = [
        [accuracy_on(model, masks_by_hand(model, order, count), r, VALIDATION) for r in range(3)] for count in counts
    ]
    assert report.curve.scores == pytest.approx(np.array(expected), abs=1e-12)
    assert report.curve.ideal == pytest.approx(accuracy(model, {}, VALIDATION), abs=1e-12)
    assert np.unique(report.curve.scores).size > 3
    fractions = np.array(counts) / 48
    for column, values in (
        (report.curve.fraction, fractions),
        (report.curve.nwc_verify_only, fractions),
        (report.curve.nwc_total, (10 * fractions + 1 - fractions) / 10),
    ):
        assert column == pytest.approx(np.repeat(values[:, None], 3, axis=1))
    assert report.fraction == 0.5
    assert report.nwc == pytest.approx((0.5, 0.55))
    for r in range(3):
        masks = masks_by_hand(model, order, 24)
        assert all(torch.equal(report.verified(r)[name], masks[name]) for name in NAMES)
        expected = cim.chip_weights(model, VerifiedChip(VARIATION, 0, r, verified=masks))
        assert all(torch.equal(report.weights(model, r)[name], expected[name]) for name in NAMES)


def test_each_chip_stops_within_its_budget():
    model, order = net(), None
    report = programmed(model, max_drop=0.03, granularity=0.125, chips=6)
    order = order_by_hand(model, scripted(model))
    ideal = accuracy(model, {}, VALIDATION)
    expected = []
    for r in range(6):
        for count in range(0, 49, 6):
            score = accuracy_on(model, masks_by_hand(model, order, count), r, VALIDATION)
            if ideal - score <= 0.03:
                break
        expected.append(count)
    assert list(report.stops) == expected
    assert len(set(expected)) > 1
    assert report.fraction == pytest.approx(np.mean(expected) / 48)
    assert report.met.all()
    assert "drop within max_drop=0.03 on all 6 chips" in str(report)
    # a chip that has stopped keeps its last values
    assert report.curve.fraction[-1] == pytest.approx(np.array(expected) / 48)
    assert (ideal - report.scores <= 0.03).all()


def test_a_large_budget_needs_no_verifying():
    report = programmed(net(), max_drop=1.0)
    assert report.fraction == 0.0
    assert report.nwc == (0.0, pytest.approx(0.1))


def test_a_budget_that_cannot_be_met_is_reported():
    report = programmed(net(), max_drop=0.0, granularity=0.5, residual=cim.Gaussian(0.3))
    assert (report.stops[~report.met] == 48).all()
    assert not report.met.all()
    missed = int((~report.met).sum())
    said = str(report)
    assert f"BUDGET NOT MET on {missed} of 3 chips: with every weight verified accuracy still drops" in said
    assert "The residual (Gaussian(sigma=0.3))" in said


def test_the_stop_does_not_see_test_data():
    """Promise 8."""
    model = net()
    without = programmed(model, max_drop=0.03, granularity=0.125)
    test = dataset(64, seed=5)
    nonsense = DataLoader([(x, 1 - y) for x, y in test], batch_size=16)
    reports = [programmed(model, max_drop=0.03, granularity=0.125, test=data) for data in (batches(64, 5), nonsense)]
    for report in reports:
        assert np.array_equal(report.stops, without.stops)
        assert np.array_equal(report.curve.scores, without.curve.scores)
    assert without.test is None
    expected = np.array([accuracy(model, without.weights(model, r), test) for r in range(3)])
    assert reports[0].test.scores == pytest.approx(expected)
    assert reports[0].test.ideal == pytest.approx(accuracy(model, {}, test))
    assert reports[1].test.scores == pytest.approx(1 - expected)
    assert "test accuracy" in str(reports[0])
    assert "test accuracy" not in str(without)


def test_chip_r_is_the_same_chip_of_any_number():
    model = net()
    many, one = (programmed(model, verify_fraction=0.25, chips=chips) for chips in (4, 1))
    assert np.array_equal(many.curve.scores[:, :1], one.curve.scores)
    raw = [
        accuracy(model, cim.chip_weights(model, cim.ChipPopulation(model, VARIATION)[r]), VALIDATION) for r in range(4)
    ]
    assert many.curve.scores[0] == pytest.approx(raw)


@pytest.mark.parametrize("factor", [2.0**-6, 16.0])
def test_rescaling_two_layers_changes_nothing(factor):
    """Promise 7, with the real sensitivity."""
    model = net()
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= factor
        scaled[0].bias *= factor
        scaled[2].weight /= factor
    first, second = (programmed(m, verify_fraction=1.0, granularity=0.1, sensitivity="auto") for m in (model, scaled))
    assert torch.equal(first.ranking.order, second.ranking.order)
    assert np.array_equal(first.curve.scores, second.curve.scores)
    assert str(first) == str(second)


def test_without_validation_data_the_training_data_scores():
    model = net()
    report = programmed(model, verify_fraction=0.0, validation=None)
    assert report.curve.ideal == accuracy(model, {}, dataset(96))
    assert "scored on: training data" in str(report)


def test_the_sensitivity_is_that_of_the_training_data():
    model = net()
    report = programmed(model, verify_fraction=0.25, sensitivity="recursion")
    order = order_by_hand(model, sensitivity(model, batches()))
    assert all(torch.equal(report.verified()[name], masks_by_hand(model, order, 12)[name]) for name in NAMES)
    assert "sensitivity: recursion, 96 samples" in str(report)


@pytest.mark.parametrize("method", ["magnitude", "random"])
def test_baselines_need_no_sensitivity(method):
    model = net()
    report = programmed(model, verify_fraction=0.25, method=method, sensitivity="no such thing")
    assert report.curve.method == method
    verified = report.verified()
    assert sum(int(mask.sum()) for mask in verified.values()) == 12
    if method == "magnitude":
        sizes = {name: model.state_dict()[name].abs() / model.state_dict()[name].abs().max() for name in NAMES}
        kept = torch.cat([sizes[name][verified[name]] for name in NAMES])
        left = torch.cat([sizes[name][~verified[name]] for name in NAMES])
        assert kept.min() >= left.max()


def test_pruned_and_quantised_weights_stay_so():
    model = net()
    sparse, precise = cim.StructuredSparsity("2:4"), cim.MixedPrecision(8, activation_bits=None)
    sparse.attach(None, model)
    sparse.make_transform().update(model)
    precise.attach(None, model)
    try:
        report = programmed(model, verify_fraction=0.5)
        stored = report.weights(model, 0)
        ideal = accuracy(model, cim.export_state_dict(model), VALIDATION)
        raw = [accuracy(model, cim.chip_weights(model, cim.Chip(VARIATION, 0, r)), VALIDATION) for r in range(3)]
        exported = cim.export_state_dict(model)
    finally:
        precise.detach()
        sparse.detach()
    assert report.ranking.weights == 24
    assert report.fraction == 0.5
    assert report.curve.ideal == pytest.approx(ideal)
    assert report.curve.scores[0] == pytest.approx(raw)
    for name in NAMES:
        assert not report.verified()[name][~sparse.masks[name]].any()
        assert (stored[name][~sparse.masks[name]] == 0).all()
        off = (stored[name] - exported[name])[report.verified()[name]].abs().max()
        assert 0 < off < 0.03 * 4 * exported[name].abs().max()


def test_simulated_cycles_are_counted_weight_by_weight():
    model, loop = net(), WriteVerify(step=0.02)
    report = programmed(model, verify_fraction=0.5, granularity=0.25, simulate=loop)
    order = order_by_hand(model, scripted(model))
    for r in range(3):
        chip = VerifiedChip(VARIATION, 0, r, residual=loop)
        cycles = {name: chip.settle(name, model.state_dict()[name]).cycles for name in NAMES}
        each = [int(cycles[name].flatten()[index]) for name, index in order]
        for point, count in enumerate((0, 12, 24)):
            spent = sum(each[:count])
            assert report.curve.nwc_verify_only[point, r] == pytest.approx(spent / sum(each))
            assert report.curve.nwc_total[point, r] == pytest.approx((48 + spent) / (48 + sum(each)))
            masks = masks_by_hand(model, order, count)
            expected = accuracy_on(model, masks, r, VALIDATION, residual=loop)
            assert report.curve.scores[point, r] == pytest.approx(expected)
    assert programmed(model, verify_fraction=0.0, simulate=True).residual == WriteVerify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either verify_fraction .* or max_drop .*for example max_drop=0.01"),
        ({"verify_fraction": 0.1, "max_drop": 0.1}, "not both"),
        ({"verify_fraction": 1.1}, "verify_fraction is a share of the weights, 0 to 1, got 1.1"),
        ({"max_drop": -0.1}, "max_drop must be a finite number >= 0"),
        ({"max_drop": float("nan")}, "max_drop must be a finite number >= 0"),
        ({"max_drop": 0.1, "granularity": 0}, "granularity is a share"),
        ({"max_drop": 0.1, "granularity": 1.5}, "granularity is a share"),
        ({"max_drop": 0.1, "method": "SWIM"}, "method must be one of 'swim', 'magnitude', 'random', got 'SWIM'"),
        ({"max_drop": 0.1, "chips": 0}, "chips must be at least 1, got 0"),
        ({"max_drop": 0.1, "variation": 0.1}, "variation must be a Variation"),
        ({"max_drop": 0.1, "residual": 0.03}, "residual must be a Variation"),
        ({"max_drop": 0.1, "simulate": 3}, "simulate must be True or a WriteVerify"),
        ({"max_drop": 0.1, "simulate": True, "residual": VARIATION}, "either residual or simulate"),
        ({"max_drop": 0.1, "sensitivity": "fisher"}, "method must be one of"),
        ({"max_drop": 0.1, "cycles_per_verified_weight": 1}, "must cost more cycles"),
        ({"max_drop": 0.1, "mapping": cim.Mapping(targets=["conv"])}, "maps no parameter"),
        ({"max_drop": 0.1, "validation": 7}, "validation must give batches"),
        ({"max_drop": 0.1, "validation": []}, "there is no batch to score on"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        programmed(net(), **options)


def test_weights_that_are_nan_are_refused():
    model = net()
    with torch.no_grad():
        model[0].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter '0\.weight' has 1 NaN"):
        programmed(model, verify_fraction=0.1)


def test_a_residual_that_does_not_help_is_warned_of():
    with pytest.warns(UserWarning, match="verifying does not help"):
        programmed(net(), variation=cim.Gaussian(0.02), verify_fraction=0.1)


def test_without_variation_every_chip_is_ideal():
    report = programmed(net(), variation=cim.Gaussian(0.0), max_drop=0.0)
    assert (report.curve.scores == report.curve.ideal).all()
    assert report.fraction == 0.0


@pytest.mark.slow
def test_swim_beats_magnitude_and_random_on_digits():
    """S6, with the thresholds of the calibration: 3 networks, medians, sigma 0.25 of full scale, 10 % verified."""
    from tests.helpers.digits import digits, full_scale, trained_digits

    train, val, test = (DataLoader(part, batch_size=500) for part in digits())
    gains = {"random": [], "magnitude": []}
    for seed in range(3):
        model = trained_digits(seed=seed, epochs=12)
        found = {
            method: program(
                model,
                train,
                full_scale(0.25),
                validation=val,
                test=test,
                method=method,
                verify_fraction=0.1,
                granularity=0.1,
                chips=12,
                progress=False,
            )
            for method in ("swim", "magnitude", "random")
        }
        means = {method: report.test.scores.mean() for method, report in found.items()}
        print(f"seed {seed}: ideal {found['swim'].test.ideal:.3f}, at 10 % verified {means}")
        for method, gain in gains.items():
            gain.append(means["swim"] - means[method])
    assert np.median(gains["random"]) >= 0.08
    assert np.median(gains["magnitude"]) >= 0.04
