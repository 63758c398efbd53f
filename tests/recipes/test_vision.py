"""The vision recipe through its own command line, as a user runs it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from recipes.vision import main

pytest.importorskip("sklearn")

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("vision*.yaml"))
DIGITS = ["--data.name=digits", "--fast", "--data.limit=96", "--train.epochs=1", "--assess.search_images=32"]
TINY = [*DIGITS, "--model.width=0.0625", "--assess.chips=2"]
ALL = "[none,gaussian,temperature,correctnet,trice,neft-ovf,neft-irs,tsb]"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp("vision") / "run"
    args = ["compare", *TINY, f"--methods={ALL}", "--sigmas=[0.1]", "--seeds=[0, 1]", f"--out={out}"]
    return out, main(args), args


def test_compare_writes_every_method_with_everything_the_table_shows(compared):
    out, found, _ = compared
    for name in ("metrics.json", "config.json", "compare.md", "report.html", "accuracy-against-sigma.png"):
        assert (out / name).stat().st_size > 0, name
    rows = found["tables"]["0.1"]
    assert [row["method"] for row in rows] == ALL.strip("[]").split(",")
    for row in rows:
        assert row["seeds"] == [0, 1]
        assert all(0 <= value <= 1 for value in [*row["clean"], *row["mean"], *row["worst"], *row["nwc"]])
        assert min(row["train_seconds"]) > 0
        if row["method"] != "tsb":  # its network is whole only on one chip
            assert all(0 <= value <= 1 for value in row["worst_case"])
            assert all(value >= 0 for value in [*row["ekl"], *row["ekl_fitted"]])
            assert [point["sigma"] for point in row["curve"][0]] == [0.0, 0.2, 0.4]


def test_the_report_says_what_every_figure_depends_on(compared):
    out, _, _ = compared
    page, text = (out / "report.html").read_text(), (out / "compare.md").read_text()
    assert page.count("<img") == 2
    assert "full_scale" in page
    for word in ("compare --data.name=digits", "split seed 0", "training seeds 0, 1", "standard deviation over"):
        assert word in page, word
        assert word in text, word
    assert "population seed 0" in page


def test_figures_are_statistics_of_the_chips_on_disk(compared):
    out, found, _ = compared
    job = json.loads((out / "jobs" / "gaussian-seed1-sigma0.1.json").read_text())
    row = next(row for row in found["tables"]["0.1"] if row["method"] == "gaussian")
    accuracy = np.array(job["at"]["0.1"]["accuracy"])
    assert len(accuracy) == 2
    assert row["mean"][1] == pytest.approx(accuracy.mean())
    assert row["std"][1] == pytest.approx(accuracy.std(ddof=1))
    assert row["worst"][1] == accuracy.min()


def test_a_killed_compare_goes_on_and_ends_the_same(compared, tmp_path):
    out, found, args = compared
    again = tmp_path / "again"
    (again / "jobs").mkdir(parents=True)
    finished = [f"{method}-seed{seed}-sigma0.1.json" for method in ("trice", "neft-ovf", "tsb") for seed in (0, 1)]
    names = ["config.json", *(f"jobs/{name}" for name in finished), "jobs/gaussian-seed0-sigma0.1.ckpt"]
    for name in names:  # killed while the Gaussian network, trained already, was measured
        (again / name).write_bytes((out / name).read_bytes())
    resumed = main([*args[:-1], f"--out={again}"])
    for mine, theirs in zip(resumed["tables"]["0.1"], found["tables"]["0.1"], strict=True):
        assert mine["accuracy"] == theirs["accuracy"], mine["method"]
        assert mine["clean"] == theirs["clean"]
        if mine["method"] in ("trice", "neft-ovf", "tsb"):
            assert mine["train_seconds"] == theirs["train_seconds"]
    kept = resumed["tables"]["0.1"][1]["train_seconds"]
    assert kept[0] == found["tables"]["0.1"][1]["train_seconds"][0]


def test_sigma_free_methods_train_once_and_sigmas_may_be_added(compared):
    out, found, args = compared
    before = (out / "jobs" / "none-seed0.ckpt").stat().st_mtime_ns
    more = main([*args, "--methods=[none]", "--sigmas=[0.1, 0.3]"])
    assert (out / "jobs" / "none-seed0.ckpt").stat().st_mtime_ns == before
    assert more["tables"]["0.1"][0]["mean"] == found["tables"]["0.1"][0]["mean"]
    assert more["tables"]["0.3"][0]["mean"] != more["tables"]["0.1"][0]["mean"]


def test_fit_of_neft_shows_its_control_beside_it_and_its_folder_can_be_evaluated_and_programmed(tmp_path, capsys):
    out = tmp_path / "run"
    found = main(["fit", "--method", "neft-irs", "--cim.sigma=0.1", *TINY, f"--out={out}"])
    assert [row["method"] for row in found["tables"]["0.1"]] == ["temperature", "neft-irs"]
    results = main(["evaluate", f"--out={out}", "--chips=3", "--cim.sigma=0.1"])
    assert list(results) == ["neft-irs-seed0-sigma0.1", "temperature-seed0-sigma0.1"]
    # The same chips as in the table: the first two of three.
    expected = found["tables"]["0.1"][1]["accuracy"][0]
    assert results["neft-irs-seed0-sigma0.1"].of("test/acc")[:2].tolist() == expected
    reports = main(["program", f"--out={out}", "--methods=[neft-irs]", "--verify_fraction=0.5"])
    assert list(reports) == ["neft-irs-seed0-sigma0.1"]
    assert reports["neft-irs-seed0-sigma0.1"].fraction == pytest.approx(0.5, abs=1e-3)
    exported = torch.load(out / "program" / "neft-irs-seed0-sigma0.1-at0.1.pt", weights_only=True)
    trained = torch.load(out / "jobs" / "neft-irs-seed0-sigma0.1.ckpt", weights_only=True)
    assert list(exported["state_dict"]) == list(trained["state_dict"])
    assert "verified" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(config, tmp_path):
    found = main(["compare", f"--config={config}", *TINY, "--methods=[none]", "--seeds=[0]", f"--out={tmp_path / 'x'}"])
    sigmas = yaml.safe_load(config.read_text(encoding="utf-8"))["sigmas"]
    assert {sigma: len(rows) for sigma, rows in found["tables"].items()} == {f"{sigma:g}": 1 for sigma in sigmas}


@pytest.mark.slow
def test_jobs_run_side_by_side_from_the_shell_with_the_same_result(compared, tmp_path):
    _, found, _ = compared
    args = ["compare", *TINY, "--methods=[none,gaussian]", "--sigmas=[0.1]", "--seeds=[0]", f"--out={tmp_path / 'x'}"]
    command = [sys.executable, str(ROOT / "recipes" / "vision.py"), *args, "--jobs=2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "[2/2]" in done.stdout
    rows = json.loads((tmp_path / "x" / "metrics.json").read_text())["tables"]["0.1"]
    expected = [row["accuracy"][0] for row in found["tables"]["0.1"][:2]]
    assert [row["accuracy"][0] for row in rows] == expected


def test_a_swept_beta_is_chosen_on_validation_and_recorded(tmp_path):
    args = ["fit", "--method=neft-irs", "--cim.sigma=0.1", *TINY, "--train.sweep_beta=true", f"--out={tmp_path / 'x'}"]
    main(args)
    job = json.loads((tmp_path / "x" / "jobs" / "neft-irs-seed0-sigma0.1.json").read_text())
    scores = job["beta_sweep"]
    assert list(scores) == ["0.0001", "0.001", "0.01", "0.1"]
    assert scores[f"{job['beta']:g}"] == max(scores.values())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["compare", "--methods=[gaussian,neft-ovf]"], "neft-ovf without temperature"),
        (["compare", "--methods=[gaussian,magic]"], "methods are none, gaussian.*got magic"),
        (["compare", "--methods=[none,none]"], "each method once"),
        (["compare", "--sigmas=[0.0]"], r"must lie in \(0, 10\]"),
        (["compare", "--seeds=[]"], "seeds must be one or several"),
        (["compare", "--jobs=0"], "jobs must be at least 1"),
        (["fit", "--data.name=npz"], "needs data.root, the file"),
        (["fit", "--data.name=npz", "--data.root=nowhere.npz"], "nowhere.npz does not exist"),
        (["fit", "--data.name=imagenet"], "data.name must be one of mnist5k"),
        (["fit", "--data.name=digits", "--data.root=x"], "leave data.root"),
        (["fit", "--data.name=digits", "--model.arch=lenet"], "lenet needs images of at least 16x16.*data.size"),
        (["fit", "--data.name=digits", "--model.arch=vgg9"], "model.arch must be one of lenet"),
        (["fit", "--train.epochs=0"], "train.epochs must be at least 1"),
        (["fit", "--train.beta=0.1", "--train.sweep_beta=true"], "not both"),
        (["fit", "--assess.chips=1"], "assess.chips must be at least 2"),
        (["evaluate", "--out=nothing"], "is not the folder of a run"),
    ],
)
def test_bad_input_says_what_is_wrong(args, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        main(args)


def test_another_configuration_does_not_overwrite_a_run(compared):
    _, _, args = compared
    with pytest.raises(ValueError, match=r"other settings.*choose another --out"):
        main([*args, "--model.lr=0.1"])


def test_a_typo_in_an_option_says_which(capsys, tmp_path):
    with pytest.raises(SystemExit):
        main(["fit", "--train.epoch=3", f"--out={tmp_path}"])
    assert "train.epoch" in capsys.readouterr().err


def test_help_names_the_options(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for option in ("--fast", "--out", "--jobs", "--methods", "--data.name", "--model.arch", "--assess.chips"):
        assert option in shown
