"""Expected KL and confidence against slow references, and on digits (check S9)."""

import copy
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import nn
from torchmetrics.functional.classification import multiclass_calibration_error

import lightning_cim as cim
from lightning_cim.evaluation.logits import chip_logits
from lightning_cim.evaluation.uncertainty import ChipConfidence, ExpectedKL, fit_temperature
from tests.evaluation.toys import VARIATION, Classifier, Data, by_hand, dataset, loader, population
from tests.helpers.digits import digits, full_scale, trained_digits
from tests.helpers.versions import merging

mpl.use("Agg")
CHIPS, SAMPLES, CLASSES = 7, 30, 4


def random_logits(seed=0, scale=3.0):
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(CHIPS, SAMPLES, CLASSES, generator=generator)
    return logits, torch.randint(0, CLASSES, (SAMPLES,), generator=generator)


def softmax(row):
    shifted = np.exp(np.asarray(row, dtype=np.float64) - max(row))
    return shifted / shifted.sum()


def slow_ekl(logits):
    """The definition, one sample and one chip at a time."""
    total = 0.0
    for x in range(logits.shape[1]):
        chips = [softmax(logits[t, x].tolist()) for t in range(len(logits))]
        mean = sum(chips) / len(chips)
        total += sum(float((p * (np.log(p) - np.log(mean))).sum()) for p in chips) / len(chips)
    return total / logits.shape[1]


def by_chip(logits, target=None):
    metric = ExpectedKL()
    for chip in logits:
        metric.update(chip, target)
    return metric


def at_once(logits, target=None):
    metric = ExpectedKL()
    metric.update(logits, target)
    return metric


@pytest.mark.parametrize("way", [at_once, by_chip])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_ekl_equals_its_definition(way, scale):
    logits, _ = random_logits(scale=scale)
    assert way(logits).compute().item() == pytest.approx(slow_ekl(logits), rel=1e-5)


@pytest.mark.parametrize("way", [at_once, by_chip])
def test_ekl_is_zero_where_chips_agree_however_wrong_they_are(way):
    logits, target = random_logits()
    metric = way(logits[:1].expand(CHIPS, -1, -1), target)
    assert metric.compute().item() == pytest.approx(0.0, abs=1e-12)
    assert metric.accuracy() < 0.6


@pytest.mark.parametrize("way", [at_once, by_chip])
def test_ekl_of_sure_chips_that_all_differ_is_log_chips(way):
    logits = 1000 * torch.eye(CLASSES).unsqueeze(1).expand(-1, SAMPLES, -1)
    assert way(logits).compute().item() == pytest.approx(math.log(CLASSES), rel=1e-6)


def test_ekl_streams_over_samples():
    logits, target = random_logits()
    metric = ExpectedKL()
    for part, labels in zip(logits.split(11, dim=1), target.split(11), strict=True):
        metric.update(part, labels)
    assert metric.compute().item() == pytest.approx(at_once(logits).compute().item(), rel=1e-6)
    expected = (logits.argmax(-1) == target).float().mean()
    assert metric.accuracy().item() == pytest.approx(expected.item())
    assert by_chip(logits, target).accuracy().item() == pytest.approx(expected.item())


@merging
def test_ekl_of_two_ranks_merges():
    logits, target = random_logits()
    whole = at_once(logits, target)
    halves = [at_once(part, labels) for part, labels in zip(logits.split(15, dim=1), target.split(15), strict=True)]
    shares = [by_chip(logits[:3], target), by_chip(logits[3:], target)]
    for first, second in (halves, shares):
        first.merge_state(second)
        assert first.compute().item() == pytest.approx(whole.compute().item(), rel=1e-6)
        assert first.accuracy() == whole.accuracy()


def test_ekl_without_targets_has_no_accuracy_and_reset_forgets():
    logits, target = random_logits()
    metric = by_chip(logits)
    assert math.isnan(metric.accuracy())
    value = metric.compute()
    assert copy.deepcopy(metric).compute() == value
    metric.reset()
    metric.update(logits, target)
    assert metric.compute().item() == pytest.approx(value.item(), rel=1e-6)


def test_ekl_refuses_what_it_cannot_average():
    logits, _ = random_logits()
    metric = by_chip(logits)
    with pytest.raises(ValueError, match="all chips at once or with one chip at a time, not both"):
        metric.update(logits)
    with pytest.raises(ValueError, match=r"every chip needs the same samples; there were \(30, 4\), now \(29, 4\)"):
        metric.update(logits[0, 1:])
    metric = at_once(logits)
    with pytest.raises(ValueError, match="not both"):
        metric.update(logits[0])
    with pytest.raises(ValueError, match=r"got shape \(4,\)"):
        metric.update(logits[0, 0])


def test_ekl_plot_shows_accuracy():
    logits, target = random_logits()
    figure, _ = at_once(logits, target).plot()
    assert figure.texts[0].get_text().startswith("accuracy 0.")
    mpl.pyplot.close(figure)


def slow_confidence(logits, target, bins):
    """Mean confidence, that of right answers, calibration error; one prediction at a time."""
    answers = [(softmax(row), y) for chip in logits.tolist() for row, y in zip(chip, target, strict=True)]
    rows = [(max(p), int(np.argmax(p)) == y) for p, y in answers]
    gap = 0.0
    for place in range(bins):
        held = [(c, hit) for c, hit in rows if place / bins < c <= (place + 1) / bins]
        if held:
            gap += abs(np.mean([c for c, _ in held]) - np.mean([hit for _, hit in held])) * len(held) / len(rows)
    return np.mean([c for c, _ in rows]), np.mean([c for c, hit in rows if hit]), gap


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_confidence_equals_its_definition(bins):
    logits, target = random_logits()
    metric = ChipConfidence(temperature=2.5, bins=bins)
    metric.update(logits, target)
    found = metric.compute()
    assert found["accuracy"].item() == pytest.approx((logits.argmax(-1) == target).float().mean().item())
    for suffix, temperature in (("", 1.0), ("_fitted", 2.5)):
        expected = slow_confidence(logits / temperature, target.tolist(), bins)
        names = ("confidence", "confidence_right", "ece")
        assert [found[f"{name}{suffix}"].item() for name in names] == pytest.approx(list(expected), rel=1e-5)
        error = multiclass_calibration_error(
            (logits / temperature).flatten(0, 1), target.repeat(CHIPS), CLASSES, n_bins=bins
        )
        assert found[f"ece{suffix}"].item() == pytest.approx(error.item(), rel=1e-4)


@merging
def test_confidence_streams_and_merges():
    logits, target = random_logits()
    whole, first, second = (ChipConfidence(temperature=2.0) for _ in range(3))
    whole.update(logits, target)
    for chip in logits[:4]:
        first.update(chip, target)
    second.update(logits[4:], target)
    first.merge_state(second)
    expected = {name: value.item() for name, value in whole.compute().items()}
    assert {name: value.item() for name, value in first.compute().items()} == pytest.approx(expected)
    assert set(ChipConfidence().compute()) == {"accuracy", "confidence", "confidence_right", "ece"}


def test_fitted_confidence_does_not_depend_on_the_scale_of_the_logits():
    """NeFT's 1/(N+1) in training makes the logits of the deployed network about N+1 times larger."""
    held_out, logits = random_logits(seed=1), random_logits(seed=2)
    # Learnable logits: the target's own is raised, so that a best temperature exists.
    held_out[0].scatter_add_(2, held_out[1].expand(CHIPS, -1).unsqueeze(-1), torch.full((CHIPS, SAMPLES, 1), 3.0))
    found = []
    for scale in (1.0, 4.0):
        metric = ChipConfidence(fit_temperature(scale * held_out[0], held_out[1]))
        metric.update(scale * logits[0], logits[1])
        found.append(metric.compute())
    assert found[1]["confidence"] > found[0]["confidence"] + 0.02
    for name in ("confidence_fitted", "confidence_right_fitted", "ece_fitted"):
        assert found[1][name].item() == pytest.approx(found[0][name].item(), rel=1e-5)


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_temperature_is_the_likeliest(scale):
    logits, target = random_logits(seed=3, scale=1.0)
    logits = scale * (logits + 2 * nn.functional.one_hot(target, CLASSES))
    rows, labels = logits.flatten(0, 1).double(), target.repeat(CHIPS)

    def loss(log_t):
        return nn.functional.cross_entropy(rows / math.exp(log_t), labels).item()

    best = minimize_scalar(loss, bounds=(-6, 6), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, target) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_temperature_without_a_best_value_says_so():
    logits, target = torch.eye(3), torch.arange(3)
    with pytest.warns(UserWarning, match="almost every answer is right"):
        assert fit_temperature(logits, target) == pytest.approx(1e-3)
    with pytest.warns(UserWarning, match="no better than chance"):
        assert fit_temperature(-logits, target) == pytest.approx(1e3)
    with pytest.raises(ValueError, match="at least one sample"):
        fit_temperature(logits[:0], target[:0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ChipConfidence(temperature=0.0), "temperature must be a finite number > 0, got 0.0"),
        (lambda: ChipConfidence(bins=0), "bins must be at least 1, got 0"),
        (lambda: ChipConfidence().update(torch.zeros(2, 5, 3), torch.zeros(2)), r"got shapes \(2, 5, 3\) and \(2,\)"),
        (lambda: fit_temperature(torch.zeros(5), torch.zeros(5)), r"fit_temperature: .*got shapes \(5,\)"),
    ],
)
def test_bad_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_reliability_diagram_has_both_curves():
    logits, target = random_logits()
    metric = ChipConfidence(temperature=2.0)
    metric.update(logits, target)
    figure, axes = metric.plot()
    assert [text.get_text()[:3] for text in axes.get_legend().get_texts()] == ["raw", "at "]
    mpl.pyplot.close(figure)


def test_chip_logits_are_those_of_the_population():
    model = Classifier()
    logits, target = chip_logits(model, loader(), VARIATION, chips=3, seed=4)
    assert logits.shape == (3, 48, 2)
    assert torch.equal(target, dataset().tensors[1])
    accuracies, _ = by_hand(model, population(model, 3, seed=4))
    assert (logits.argmax(-1) == target).float().mean(1).tolist() == pytest.approx(accuracies.tolist())
    for index, chip in enumerate(population(model, 3, seed=4)):
        with cim.on_chip(model, chip), torch.no_grad():
            assert torch.allclose(logits[index], model(dataset().tensors[0]), atol=1e-6)


def test_chip_logits_of_labels_are_two_class_logits():
    class MultiLabel(nn.Linear):
        def cim_logits_and_target(self, batch):
            return self(batch[0]), batch[1], nn.functional.binary_cross_entropy_with_logits

    model, x = MultiLabel(4, 3), torch.randn(6, 4)
    y = (torch.rand(6, 3) > 0.5).float()
    logits, target = chip_logits(model, [(x, y)], cim.Gaussian(0.0), chips=1)
    assert logits.shape == (1, 18, 2)
    assert torch.equal(target, y.flatten().long())
    assert torch.allclose(logits[0].softmax(-1)[:, 1], model(x).sigmoid().flatten(), atol=1e-6)


def test_chip_logits_of_a_datamodule_are_of_its_test_data():
    found, expected = (chip_logits(Classifier(), data, VARIATION, 1) for data in (Data(), loader()))
    assert torch.equal(found[0], expected[0])


def test_chip_logits_refuses_regression_and_nothing():
    with pytest.raises(ValueError, match="mse_loss, which has no class logits"):
        chip_logits(nn.Linear(2, 1), [(torch.ones(3, 2), torch.ones(3, 1))], VARIATION, 1)
    with pytest.raises(ValueError, match="no batch with a prediction"):
        chip_logits(Classifier(), [], VARIATION, 1)
    with pytest.raises(ValueError, match="chips must be at least 1, got 0"):
        chip_logits(Classifier(), loader(), VARIATION, 0)


@pytest.mark.slow
def test_s9_ekl_rises_with_sigma():
    """0 at sigma 0, and larger at 0.2 than at 0.05, on trained digits; median of 3 seeds; with accuracy beside it."""
    _, _, test = digits()
    found = {sigma: [] for sigma in (0.0, 0.05, 0.1, 0.2)}
    for seed in range(3):
        model = trained_digits(seed=seed)
        for sigma, rows in found.items():
            metric = at_once(*chip_logits(model, test, full_scale(sigma), chips=20))
            rows.append((metric.compute().item(), metric.accuracy().item()))
    medians = {sigma: np.median(rows, axis=0) for sigma, rows in found.items()}
    print({sigma: values.round(4).tolist() for sigma, values in medians.items()})
    assert medians[0.0][0] == pytest.approx(0.0, abs=1e-9)
    assert 0 < medians[0.05][0] < medians[0.1][0] < medians[0.2][0]
    assert medians[0.0][1] >= 0.96
    assert medians[0.05][1] > medians[0.2][1] > 0.5
