"""Every bad input says what is wrong, where, and what to do, before anything runs."""

import math

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

import lightning_cim as cim
from tests.evaluation.toys import VARIATION, Classifier, loader, trainer

CUT = [
    cim.RightCensoredGaussian,
    cim.LeftCensoredGaussian,
    cim.TwoSidedCensoredGaussian,
    cim.RightTruncatedGaussian,
    cim.UnbiasedRightCensoredGaussian,
    cim.ShiftedGaussian,
]
INJECTED = [
    lambda mapping: cim.VariationInjection(VARIATION, mapping),
    lambda mapping: cim.MixedPrecision(8, None, mapping),
    lambda mapping: cim.StructuredSparsity(mapping=mapping),
]


@pytest.mark.parametrize("cls", [cim.Gaussian, *CUT])
@pytest.mark.parametrize("sigma", [-0.1, math.nan, math.inf, -math.inf])
def test_sigma_must_be_finite_and_not_negative(cls, sigma):
    with pytest.raises(ValueError, match=rf"{cls.__name__}: sigma must be a finite number >= 0, got {sigma}"):
        cls(sigma)


@pytest.mark.parametrize("cls", CUT)
@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.nan])
def test_cutoff_must_be_positive(cls, cutoff):
    with pytest.raises(
        ValueError, match=rf"{cls.__name__}: cutoff is in units of sigma and must be > 0 .*got {cutoff}"
    ):
        cls(0.1, cutoff)


def test_negative_factor_is_refused():
    with pytest.raises(ValueError, match=r"sigma must be a finite number >= 0, got -0\.1"):
        cim.Gaussian(0.1).scaled(-1.0)


@pytest.mark.parametrize("make", INJECTED)
@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (cim.Mapping(targets=["linaer"]), r"unknown target 'linaer' \(nearest: 'linear'.*classes in this model"),
        (
            cim.Mapping(targets=["conv"]),
            r"maps no parameter of Classifier, whose layers are Linear\. Name layers in targets",
        ),
        (cim.Mapping(include=["nte.0"]), r"include names 'nte.0'.*nearest: .*'net.0'"),
        (cim.Mapping(exclude=["nte.0"]), r"exclude names 'nte.0'.*nearest: .*'net.0'"),
    ],
)
def test_mappings_that_do_not_fit_stop_a_fit_before_its_first_batch(make, mapping, message):
    callback = make(mapping)
    model = Classifier()
    with pytest.raises(MisconfigurationException, match=rf"{type(callback).__name__}: .*{message}"):
        trainer(callbacks=[callback]).fit(model, loader())
    assert model.global_step == 0


@pytest.mark.parametrize("make", INJECTED)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_no_device_stores_stop_a_fit(make, value):
    model = Classifier()
    with torch.no_grad():
        model.net[2].weight[0, 0] = value
    with pytest.raises(MisconfigurationException, match=r"parameter 'net.2.weight' has 1 NaN or infinite of 16 values"):
        trainer(callbacks=[make(None)]).fit(model, loader())


def test_weights_that_no_device_stores_stop_an_evaluation():
    model = Classifier()
    with torch.no_grad():
        model.net[0].weight[:, 1] = math.nan
    for action in (
        lambda: cim.evaluate_chips(trainer(), model, loader(), variation=VARIATION, chips=1000),
        lambda: cim.chip_weights(model, cim.Chip(VARIATION, 0, 0)),
        lambda: cim.on_chip(model, cim.Chip(VARIATION, 0, 0)).__enter__(),
    ):
        with pytest.raises(
            ValueError, match=r"Classifier: parameter 'net.0.weight' has 8 NaN or infinite of 32 values"
        ):
            action()


class Lazy(Classifier):
    """Its second layer has no shape before the first batch."""

    def __init__(self):
        super().__init__()
        self.net[2] = nn.LazyLinear(2)


@pytest.mark.parametrize("make", INJECTED)
def test_layers_without_a_shape_are_named_instead_of_staying_digital_unseen(make):
    with pytest.raises(
        MisconfigurationException, match=r"net.2.weight, net.2.bias are not initialised yet. Run one batch"
    ):
        trainer(callbacks=[make(None)]).fit(Lazy(), loader())


def test_the_module_works_on_after_a_refusal():
    model = Classifier()
    with pytest.raises(MisconfigurationException):
        trainer(callbacks=[cim.VariationInjection(VARIATION, cim.Mapping(targets=["conv"]))]).fit(model, loader())
    trainer(callbacks=[cim.VariationInjection(VARIATION)]).fit(model, loader())
    assert "training_step" not in vars(model)
