import json

import numpy as np
import pytest
import torch

import lightning_cim as cim
from recipes.brain_mri.chips import PLAIN, Point, StudyOptions, data_of, measure, on_chips, study, trained
from recipes.brain_mri.chips_report import retuning_table, score_table, training_table
from recipes.brain_mri.module import BrainModule
from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.thresholds import Threshold
from recipes.iqa import main

SIZE = 32
VALIDATION = [phantom(seed, SIZE, lesion="tumour") for seed in (10, 11)]
TEST = [phantom(seed, SIZE, lesion="tumour") for seed in (20, 21)]
SCORES = ("auprc", "dice_frozen", "dice_tuned", "fpr_frozen")


@pytest.fixture(scope="module")
def module():
    """A network that has learnt the mean healthy head a little: bright lesions stand out."""
    net = BrainModule("dae", size=SIZE, air="off")
    slices = torch.from_numpy(np.concatenate([np.moveaxis(phantom(s, SIZE).image, -1, 0)[4:13:2] for s in range(3)]))[
        :, None
    ]
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(80):
        optimizer.zero_grad()
        made, penalty = net.network.training_pass(slices, torch.Generator().manual_seed(step))
        (net.criterion(made, slices) + penalty).backward()
        optimizer.step()
    return net


def test_a_chip_without_deviation_is_digital_bit_for_bit(module):
    plain = module.examine(TEST[0], ["fq", "l1"])
    with cim.on_chip(module, cim.ChipPopulation(module, cim.Gaussian(0.0))[3]):
        on_chip = module.examine(TEST[0], ["fq", "l1"])
    np.testing.assert_array_equal(plain.reconstruction, on_chip.reconstruction)
    for kind in ("fq", "l1"):
        np.testing.assert_array_equal(plain.maps[kind], on_chip.maps[kind])


def test_study(module, tmp_path, monkeypatch):
    options = StudyOptions(sigmas=(0.2,), chips=5, maps=("fq", "l1"), train_sigmas=())
    before = {name: value.clone() for name, value in module.network.state_dict().items()}
    found = study({PLAIN: module}, VALIDATION, TEST, options, tmp_path)
    assert all(torch.equal(value, module.network.state_dict()[name]) for name, value in before.items())
    for kind in ("fq", "l1"):
        (clean,), rows = found[Point(PLAIN, kind, 0.0)], found[Point(PLAIN, kind, 0.2)]
        assert clean["dice_frozen"] == clean["dice_tuned"]
        assert len(rows) == 5
        for name in ("auprc", "dice_tuned"):
            assert np.std([row[name] for row in rows]) > 0
        assert {row["threshold_frozen"] for row in rows} == {clean["threshold_tuned"]}
        assert np.mean([row["dice_frozen"] for row in rows]) < clean["dice_frozen"]

    # Chip 2 is what the population says, and an interrupted study takes up where it was.
    with cim.on_chip(module, cim.ChipPopulation(module, cim.Gaussian(0.2))[2]):
        frozen = {kind: Threshold(found[Point(PLAIN, kind, 0.0)][0]["threshold_tuned"], "") for kind in ("fq", "l1")}
        again = measure(module, VALIDATION, TEST, ("fq", "l1"), frozen)
    assert again["fq"] == found[Point(PLAIN, "fq", 0.2)][2]
    (tmp_path / "plain-0.2-2.json").unlink()
    calls = []
    monkeypatch.setattr("recipes.brain_mri.chips.measure", lambda *a: calls.append(1) or measure(*a))
    assert study({PLAIN: module}, VALIDATION, TEST, options, tmp_path) == found
    assert len(calls) == 1


def rows_of(base):
    return [dict.fromkeys((*SCORES, "threshold_frozen", "threshold_tuned"), base + 0.01 * chip) for chip in range(4)]


def test_tables():
    results = {
        Point(PLAIN, "fq", 0.0): rows_of(0.5)[:1],
        Point(PLAIN, "fq", 0.1): [row | {"dice_tuned": row["dice_frozen"] + 0.25} for row in rows_of(0.2)],
        Point("noisy", "fq", 0.0): rows_of(0.5)[:1],
        Point("noisy", "fq", 0.1): rows_of(0.3),
    }
    _, lines = score_table(results)
    assert lines[0][:4] == [PLAIN, "fq", "0", "50.0"]
    assert lines[1][3] == "21.5 ± 1.3"
    assert retuning_table(results)[1][0] == [PLAIN, "fq", "0.1", "+25.0 [+25.0, +25.0] *"]
    assert training_table(results, PLAIN)[1] == [
        ["noisy", "fq", "0.1", "+10.0 [+10.0, +10.0] *", "+10.0 [+10.0, +10.0] *", "-15.0 [-15.0, -15.0] *"]
    ]


@pytest.mark.filterwarnings("ignore:.*(near 0.5|many workers|LeafSpec).*")
def test_command_line(tmp_path):
    words = [
        "--data.source=phantom",
        "--data.size=32",
        "--data.cache=null",
        "--data.counts.train=2",
        "--data.counts.healthy_val=1",
        "--data.counts.lesion_val=1",
        "--data.counts.lesion_test=2",
        "--trainer.max_epochs=1",
        "--trainer.accelerator=cpu",
        "--study.sigmas=[0.1]",
        "--study.chips=2",
        f"--out={tmp_path}",
    ]
    found = on_chips(words, main)
    assert json.loads((tmp_path / "metrics.json").read_text()) == json.loads(json.dumps(found))
    assert {(row["net"], row["map"], row["sigma"], row["chip"]) for row in found["rows"]} == {
        (net, kind, sigma, chip)
        for net in (PLAIN, "trained at 0.05")
        for kind in ("fq", "l1")
        for sigma, chip in ((0.0, 0), (0.1, 0), (0.1, 1))
    }
    assert (tmp_path / "report.html").exists()
    assert len((tmp_path / "chips.csv").read_text().splitlines()) == 1 + len(found["rows"])
    plain, config = trained(tmp_path / PLAIN)
    noisy, _ = trained(tmp_path / "trained-at-0.05")
    assert any(not torch.equal(a, b) for a, b in zip(plain.parameters(), noisy.parameters(), strict=True))
    assert len(data_of(config).lesion_test) == 2
    assert on_chips(words, main) == found  # all of it from disk


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chips": 1}, "at least 2"),
        ({"sigmas": (0.0,)}, "must be above 0"),
        ({"maps": ("mse",)}, "maps must be some of"),
        ({"maps": ()}, "maps must be some of"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        StudyOptions(**options)
