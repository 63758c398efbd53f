"""Write-verify repairs errors of writing; what is stuck, drifts or is read stays as it is."""

import math

import pytest
import torch
from torch import nn

import lightning_cim as cim
from lightning_cim.chip.population import Chip
from lightning_cim.chip.scope import chip_weights, on_chip
from lightning_cim.programming.verified import VerifiedChip
from lightning_cim.programming.write_verify import WriteVerify
from lightning_cim.variation.faults import StuckAt
from lightning_cim.variation.measured import Measured
from lightning_cim.variation.read_noise import ReadNoise
from lightning_cim.variation.temporal import Drift

TIME = 3600.0


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Linear(40, 30, bias=False)


def everything(model):
    return {"weight": torch.ones_like(model.weight, dtype=torch.bool)}


@pytest.mark.parametrize("write", [cim.Gaussian(0.1), Measured.preset("pcm-nandakumar2019")], ids=["gaussian", "pcm"])
@pytest.mark.parametrize("residual", [None, WriteVerify()], ids=["residual", "pulses"])
def test_verified_weights_drift_from_what_verifying_left(model, write, residual):
    """Exponents all alike: g(t) = factor * g, of the residual's conductance instead of the raw one."""
    drift = Drift(0.05, t0=1.0, time=TIME)
    chip = VerifiedChip(write + drift, 0, 1, verified=everything(model), residual=residual)
    fresh = VerifiedChip(write.per_device, 0, 1, verified=everything(model), residual=chip.residual)
    factor = (1.0 + TIME) ** -0.05
    # The stored weight, not the pair's devices: an error of the same size and sign on one device of the pair.
    torch.testing.assert_close(chip_weights(model, chip)["weight"], factor * chip_weights(model, fresh)["weight"])


def test_an_unverified_weight_drifts_as_on_the_plain_chip(model):
    variation = cim.Gaussian(0.1) + Drift(0.05, 0.02, time=TIME)
    half = {"weight": torch.arange(40).expand(30, 40) < 20}
    plain = chip_weights(model, Chip(variation, 0, 1))["weight"]
    found = chip_weights(model, VerifiedChip(variation, 0, 1, verified=half))["weight"]
    assert torch.equal(found[:, 20:], plain[:, 20:])
    assert not torch.isclose(found[:, :20], plain[:, :20]).any(1).all()


def test_stuck_devices_stay_stuck(model):
    variation = cim.Gaussian(0.1) + StuckAt(high=0.1)
    plain = VerifiedChip(variation, 0, 1)
    verified = plain.verify(everything(model))
    largest = model.weight.detach().abs().max()
    stuck = chip_weights(model, Chip(StuckAt(high=0.1), 0, 1))["weight"] - model.weight.detach()
    errors = (chip_weights(model, verified)["weight"] - model.weight.detach()).abs() / largest
    assert (stuck.abs() / largest > 0.3).sum() > 50  # there are some
    assert (errors > 0.3).sum() > 50
    assert errors.median() < 0.03  # the others were repaired


def test_cycles_do_not_depend_on_time(model):
    loop = WriteVerify()
    chips = [
        VerifiedChip(variation, 0, 1, verified=everything(model), residual=loop)
        for variation in (cim.Gaussian(0.1), cim.Gaussian(0.1) + Drift(0.05, time=TIME) + ReadNoise(0.01))
    ]
    first, second = (chip.settle("weight", model.weight).cycles for chip in chips)
    assert torch.equal(first, second)


def test_verified_weights_are_read_with_noise(model):
    variation = cim.Gaussian(0.1) + ReadNoise(0.05)
    chip = VerifiedChip(variation, 0, 1, verified=everything(model), residual=cim.Gaussian(0.0))
    stored = chip_weights(model, chip)["weight"]
    torch.testing.assert_close(stored, model.weight.detach())
    with on_chip(model, chip):
        error = (model.weight - stored).detach() / stored.abs().max()
    assert float(error.std()) == pytest.approx(0.05 * math.sqrt(2), rel=0.1)


def test_program_ranks_by_errors_of_writing(model):
    weight = model.weight.detach()
    writing = cim.Gaussian(0.1)
    both = writing + StuckAt(low=0.1) + Drift(0.1, 0.05, time=TIME)
    assert torch.equal(both.variance(weight), writing.variance(weight))
    assert torch.equal(StuckAt(low=0.1).variance(weight), torch.zeros(()))


def test_rewriting_verifies_anew_and_keeps_what_is_the_devices_own(model):
    variation = cim.DeviceAndCycle(cim.Gaussian(0.1), cim.Gaussian(0.001)) + StuckAt(high=0.1)
    half = {"weight": torch.arange(40).expand(30, 40) < 20}
    first = VerifiedChip(variation, 0, 1, verified=half, residual=WriteVerify(), settled={})
    second = first.rewritten()
    before, after = (chip_weights(model, chip)["weight"] for chip in (first, second))
    largest = model.weight.detach().abs().max()
    change = (after - before)[:, 20:] / largest
    assert float(change.std()) == pytest.approx(0.001 * math.sqrt(2), rel=0.2)  # not 0.1: D2D and faults stayed
    assert not torch.equal(before[:, :20], after[:, :20])


def test_redrawing_cannot_repair_the_device_itself(model):
    """With little cycle to cycle variation a rewrite brings the same error again, however often it is tried."""
    loop = WriteVerify(form="redraw", tolerance=0.03, max_cycles=30)
    own = VerifiedChip(
        cim.DeviceAndCycle(cim.Gaussian(0.1), cim.Gaussian(0.0001)), 0, 1, verified=everything(model), residual=loop
    ).settle("weight", model.weight)
    anew = VerifiedChip(cim.Gaussian(0.1), 0, 1, verified=everything(model), residual=loop).settle(
        "weight", model.weight
    )
    largest = model.weight.detach().abs().max()
    assert float((own.error.abs() > 0.03 * largest).double().mean()) > 0.6
    assert float((anew.error.abs() > 0.03 * largest).double().mean()) < 0.01
