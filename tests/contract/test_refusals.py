"""What cannot work is refused before anything runs, and nothing is left behind."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import lightning_cim as cim
from tests.helpers.boring import FLAVOURS, data, fit, make, make_trainer
from tests.helpers.cases import (
    SIGMA,
    correctnet,
    injection,
    irs,
    magnitude,
    monte_carlo,
    ovf,
    precision,
    strategy,
    trice,
    worst_case,
    write_verify,
)
from tests.helpers.checks import _parameters, assert_clean

ROOT = Path(__file__).parents[2]


def shared_block(flavour):
    return {"callbacks": [cim.TinySharedBlock(SIGMA)]}


def sharded(flavour, name):
    base = importlib.import_module(f"{flavour}.strategies").SingleDeviceStrategy
    return type(name, (base,), {})(device="cpu")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", ["FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"])
@pytest.mark.parametrize(
    "arrange",
    [injection, precision, magnitude, monte_carlo, ovf, irs, correctnet, trice, worst_case, write_verify, shared_block],
)
def test_strategies_that_shard_are_refused(arrange, name, flavour):
    model = make(flavour)
    before = _parameters(model)
    with pytest.raises(cim_error(), match=name):
        fit(flavour, arrange, model=model, strategy=sharded(flavour, name))
    assert model.losses == []
    assert_clean(model, before)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [injection, ovf, trice])
def test_callback_and_strategy_together_are_refused(arrange, flavour):
    model = make(flavour)
    before = _parameters(model)
    with pytest.raises(cim_error(), match="Keep one"):
        fit(flavour, lambda f: {**strategy(f), **arrange(f)}, model=model)
    assert_clean(model, before)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_two_injections_are_refused(flavour):
    with pytest.raises((RuntimeError, cim_error()), match="VariationInjection"):
        fit(flavour, lambda f: {"callbacks": [*injection(f)["callbacks"], *injection(f)["callbacks"]]})


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("arrange", [ovf, trice])
def test_two_links_of_one_stage_are_refused(arrange, flavour):
    model = make(flavour)
    before = _parameters(model)
    with pytest.raises(cim_error(), match="already"):
        fit(flavour, lambda f: {"callbacks": [*injection(f)["callbacks"], *arrange(f)["callbacks"]]}, model=model)
    assert_clean(model, before)


def test_strategy_names_are_known_to_the_lightning_that_was_imported_before():
    code = f"import {FLAVOURS[-1]} as pl, lightning_cim; pl.Trainer(strategy='cim', accelerator='cpu', logger=False)"
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_strategy_names_inject(flavour):
    importlib.import_module("lightning_cim._registry").register_strategies()  # after both flavours were imported
    trainer = make_trainer(flavour, strategy="cim")
    model = make(flavour)
    trainer.fit(model, data())
    assert len({tuple(seen["conv.weight"].flatten().tolist()) for seen in model.seen}) == len(model.seen) > 1


def test_more_devices_than_one_are_refused_by_cim():
    with pytest.raises(cim_error(), match="cim_ddp"):
        make_trainer(FLAVOURS[0], strategy="cim", devices=2)


def cim_error():
    return importlib.import_module("lightning_cim._compat").MisconfigurationException
