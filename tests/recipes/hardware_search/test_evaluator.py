import itertools
import pickle

import numpy as np
import pytest
import torch

import lightning_cim as cim
from lightning_cim.codesign import Space
from recipes.hardware_search.devices import DEVICES, variation_of
from recipes.hardware_search.digits import DesignedNetwork, digits
from recipes.hardware_search.evaluator import FINAL_POPULATION, SEARCH_POPULATION, DigitsEvaluator, _population

pytest.importorskip("sklearn")

SPACE = Space.preset("digits")
DESIGN = dict(c12=8, c34=8, c56=8, k12=3, k34=3, k56=3, xbar=64, adc_bits=7, cell_bits=1, device="fefet")
QUICK = DigitsEvaluator(epochs=4, chips=3, final_chips=4, train_images=512, batch_size=32)


def test_splits_have_nothing_in_common():
    splits = digits()
    sizes = [len(split[0]) for split in (splits.train, splits.val, splits.test)]
    assert sum(sizes) == 1797
    rows = [
        {tuple(image.flatten().tolist()) for image in split[0]} for split in (splits.train, splits.val, splits.test)
    ]
    for a, b in itertools.combinations(rows, 2):
        assert not a & b
    assert splits.train[0].min() == -1
    assert splits.train[0].max() == 1


def test_the_network_is_the_one_that_is_costed():
    from lightning_cim.codesign.cost import network_of

    rng = np.random.default_rng(0)
    for _ in range(10):
        design = SPACE.sample(rng)
        layers = [m for m in DesignedNetwork(design, 1).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        weights = [layer.weight.numel() for layer in layers]
        assert weights == [int(shape.c_in * shape.c_out * shape.taps) for shape in network_of(design, "digits")]
        assert DesignedNetwork(design, 1)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_evaluation_is_a_function_of_design_and_seed_and_leaves_the_global_state_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = QUICK.evaluate(DESIGN, 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert first.status == "ok"
    assert first == QUICK.evaluate(DESIGN, 0)
    assert first.metrics["acc_mean"] != QUICK.evaluate(DESIGN, 1).metrics["acc_mean"]
    assert 0.2 < first.metrics["acc_mean"] <= 1
    assert first.metrics["acc_kpp"] <= first.metrics["acc_mean"]


def test_devices_slices_and_converters_count():
    weight = torch.linspace(-1, 1, 65)
    spread = {
        (device, bits): float(variation_of({"device": device, "cell_bits": bits}).variance(weight).mean())
        for device in DEVICES
        for bits in (1, 2, 4)
    }
    for device in DEVICES:
        assert spread[device, 1] < spread[device, 2] < spread[device, 4]
    with pytest.raises(ValueError, match="no variation is known for the device 'sram'"):
        variation_of({"device": "sram", "cell_bits": 1})
    coarse = QUICK.evaluate({**DESIGN, "adc_bits": 4, "xbar": 256, "cell_bits": 4}, 0).metrics
    assert coarse["acc_mean"] < QUICK.evaluate(DESIGN, 0).metrics["acc_mean"]


def test_every_device_of_the_space_is_known():
    device = next(slot for slot in SPACE.slots if slot.name == "device")
    assert set(device.values) == set(DEVICES)


def test_final_scores_are_of_test_data_and_of_chips_of_their_own(monkeypatch):
    seen = []
    original = cim.evaluate_chips

    def spy(trainer, model, data, **options):
        seen.append((data.dataset.tensors[0], options["seed"], options["chips"]))
        return original(trainer, model, data, **options)

    monkeypatch.setattr(cim, "evaluate_chips", spy)
    QUICK.evaluate(DESIGN, 3)
    metrics = QUICK.final(DESIGN, 3)
    assert torch.equal(seen[0][0], digits().val[0])
    assert torch.equal(seen[1][0], digits().test[0])
    assert [entry[2] for entry in seen] == [3, 4]
    assert set(metrics) == {"acc_mean", "acc_std", "acc_kpp", "energy_pj", "latency_ns", "area_mm2"}
    populations = [_population(seed, stream) for seed in range(50) for stream in (SEARCH_POPULATION, FINAL_POPULATION)]
    assert len(set(populations)) == 100
    assert [entry[1] for entry in seen] == [_population(3, SEARCH_POPULATION), _population(3, FINAL_POPULATION)]


def test_the_version_tells_settings_apart_and_workers_get_a_copy():
    assert len({QUICK.version, DigitsEvaluator().version, DigitsEvaluator(preset="isaac32").version}) == 3
    assert pickle.loads(pickle.dumps(QUICK)) == QUICK
    with pytest.raises(ValueError, match="chips must be at least 2"):
        DigitsEvaluator(chips=1)
