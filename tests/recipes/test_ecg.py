"""The ECG recipe through its own command line, as a user runs it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from recipes.arrhythmia.records import Strip
from recipes.ecg import main

TINY = [
    "--fast",
    "--recipe.epochs=1",
    "--recipe.finetune_epochs=1",
    "--recipe.chips=3",
    "--recipe.sigmas=[0.1]",
    "--recipe.chip_strips=1",
    "--recipe.workers=1",
    "--trainer.enable_progress_bar=false",
]
CONFIGS = sorted((Path(__file__).parents[2] / "recipes" / "configs").glob("ecg*.yaml"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ecg") / "run"
    return out, main(["fit", *TINY, f"--out={out}"])


def test_fit_writes_everything_it_promises(finished):
    out, found = finished
    for name in ("metrics.json", "config.json", "integer.npz", "report.html", "dense.ckpt", "variation.ckpt"):
        assert (out / name).stat().st_size > 0, name
    assert json.loads((out / "metrics.json").read_text())["thresholds"] == pytest.approx(found["thresholds"])
    page = (out / "report.html").read_text()
    assert page.count("<img") == 3
    assert "VariationInjection(cim.Gaussian(sigma=0.1))" in page


def test_accuracy_table_has_the_baselines_on_the_same_windows(finished):
    _, found = finished
    names = [row["name"] for row in found["accuracy"]]
    assert names[-3:] == ["dense", "plain", "variation"]
    assert {"LR-5, p > 0.5", "LR-5, tuned", "rule: duty"} <= set(names)
    assert len({row["tp"] + row["fp"] + row["tn"] + row["fn"] for row in found["accuracy"]}) == 1


def test_hardware_and_integer_export_are_exact(finished):
    _, found = finished
    total = found["hardware"][-1]
    assert (total["macs"], total["effective_macs"]) == (2_809_984, 1_433_728)
    assert (total["weight_bits"], total["index_bits"], total["cycles"]) == (52_096, 25_088, 2944)
    assert found["integer"]["argmax"] >= 0.999
    assert found["integer"]["max_relative"] < 1e-3


def test_a_killed_run_goes_on_and_ends_the_same(finished, tmp_path):
    out, found = finished
    again = tmp_path / "again"
    again.mkdir()
    for name in ("config.json", "dense.ckpt"):  # killed after the dense training
        (again / name).write_bytes((out / name).read_bytes())
    before = (again / "dense.ckpt").stat().st_mtime_ns
    resumed = main(["fit", *TINY, f"--out={again}"])
    assert (again / "dense.ckpt").stat().st_mtime_ns == before
    assert json.dumps(resumed) == json.dumps(found)


def test_another_configuration_does_not_overwrite_a_run(finished):
    out, _ = finished
    with pytest.raises(ValueError, match=r"another configuration.*choose another --out"):
        main(["fit", *TINY, f"--out={out}", "--model.lr=0.1"])


def test_evaluate_takes_the_checkpoint_with_its_threshold_masks_and_ranges(finished, capsys):
    out, found = finished
    # Deviations too small to change a decision: the chips must score what the report's accuracy table says.
    main(
        [
            "evaluate",
            "--fast",
            f"--ckpt_path={out / 'plain.ckpt'}",
            "--cim.sigma=1e-6",
            "--chips=1",
            "--trainer.enable_progress_bar=false",
            "--trainer.logger=false",
        ]
    )
    printed = capsys.readouterr().out
    accuracy = float(re.search(r"test/acc +([\d.]+)", printed).group(1))
    expected = next(row["acc"] for row in found["accuracy"] if row["name"] == "plain")
    assert accuracy == pytest.approx(expected, abs=2e-3)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(config, tmp_path):
    found = main(["fit", f"--config={config}", *TINY, f"--out={tmp_path / 'run'}"])
    assert found["chips"][0]["chips"] == 3


@pytest.mark.slow
def test_crossval_on_contest_strips(tmp_path):
    from recipes.arrhythmia import simulator
    from recipes.arrhythmia.contest import save_strips

    strips = simulator.simulate(0, range(20), 6)
    path = tmp_path / "strips.npz"
    save_strips(path, [Strip(strip.signal, strip.rhythm, f"S{int(strip.patient[3:]):02d}") for strip in strips])
    tiny = [word for word in TINY if word != "--fast"]
    args = ["--data.name=contest", f"--data.root={path}", "--data.folds=2", f"--out={tmp_path / 'cv'}"]
    summary = main(["crossval", *args, *tiny])
    assert summary["folds"] == 2
    patients = [
        set(json.loads((tmp_path / "cv" / f"fold{fold}" / "metrics.json").read_text())["accuracy"][0]["patient_f2"])
        for fold in range(2)
    ]
    assert not patients[0] & patients[1]
    assert len(patients[0] | patients[1]) == 20
    assert np.isfinite(summary["chips"][0]["acc mean"])


def test_a_typo_in_an_option_says_which(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--recipe.chip=3"])
    assert "recipe.chip" in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--fast", "--out", "--data.name", "--cim.sigma", "--recipe.chips"):
        assert option in shown
