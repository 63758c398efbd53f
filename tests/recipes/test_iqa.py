"""The IQA recipe through its own command line, as a user runs it, on phantoms."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.brain_mri import run
from recipes.brain_mri.models import ARCHS
from recipes.iqa import main

nibabel = pytest.importorskip("nibabel")
CONFIG = Path(__file__).parents[2] / "recipes" / "configs" / "iqa.yaml"

TINY = [
    "--data.source=phantom",
    "--data.size=32",
    "--data.counts.train=2",
    "--data.counts.healthy_val=1",
    "--data.counts.lesion_val=1",
    "--data.counts.lesion_test=2",
    "--data.slices_per_epoch=16",
    "--data.batch_size=8",
    "--model.width=4",
    "--trainer.enable_progress_bar=false",
]


def fit(out, *words):
    return main(["fit", *TINY, "--model.arch=ae", "--trainer.max_epochs=2", *words, f"--out={out}"])


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name].nan_to_num(7), b[name].nan_to_num(7)) for name in a)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("iqa") / "run"
    fit(out)
    return out


@pytest.fixture(scope="module")
def tested(trained):
    return main(["test", f"--out={trained}"])


def test_fit_trains_with_both_losses_from_the_same_weights(trained):
    states = [weights(trained / loss / run.MODEL) for loss in ("fq", "l1")]
    assert not same(*states)
    assert [len(run.history(trained / loss)) for loss in ("fq", "l1")] == [2, 2]
    assert not list(trained.glob("*/last.ckpt"))


def test_the_test_writes_what_it_promises(trained, tested):
    folder = trained / "test-tumour"
    names = ["metrics.json", "table.csv", "volumes.csv", "panel.png", "scores.png", "training.png", "report.html"]
    assert all((folder / name).stat().st_size > 0 for name in names)
    assert json.loads((folder / "metrics.json").read_text()) == tested
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    cells = [("fq", "l1"), ("fq", "fq"), ("l1", "l1"), ("l1", "fq"), ("-", "intensity")]
    assert [(row["trained"], row["map"]) for row in rows] == cells
    assert all("lesion validation volume" in row["threshold_origin"] for row in rows)
    assert float(rows[1]["auprc"]) == tested["cells"][1]["auprc"][0]
    with (folder / "volumes.csv").open() as file:
        each = [float(row["auprc"]) for row in csv.DictReader(file) if (row["trained"], row["map"]) == ("fq", "fq")]
    assert np.mean(each) == pytest.approx(float(rows[1]["auprc"]))
    written = sorted((folder / "maps").iterdir())
    image = nibabel.load(written[0])
    assert len(written) == 2
    assert image.shape == (32, 32, 17)
    assert np.allclose(image.affine[:3, :3], 6 * np.eye(3))
    assert image.get_fdata().max() > 0


def test_thresholds_come_from_validation_volumes_alone(trained, tested, monkeypatch):
    before = json.loads((trained / "thresholds.json").read_text())["thresholds"]
    monkeypatch.setattr("recipes.brain_mri.datamodule.BrainData.lesion_test", property(lambda self: 1 / 0))
    monkeypatch.setattr("recipes.brain_mri.datamodule.BrainData.train", property(lambda self: 1 / 0))
    found = main(["validate", f"--out={trained}"])
    assert json.loads((trained / "thresholds.json").read_text())["thresholds"] == before
    assert found["fq/fq"]["best dice"].value == tested["cells"][1]["threshold"]["value"]
    assert set(found["l1/fq"]) == {"best dice", "fpr 1", "fpr 5", "fpr 10"}


def test_fit_sees_no_lesion(tmp_path, monkeypatch):
    for name in ("lesion_val", "lesion_test", "predict_volumes"):
        monkeypatch.setattr(f"recipes.brain_mri.datamodule.BrainData.{name}", property(lambda self: 1 / 0))
    assert set(fit(tmp_path / "run", "--trainer.max_epochs=1")) == {"fq", "l1"}


def test_the_same_seed_gives_the_same_metrics_and_another_does_not(tmp_path, tested):
    for name, words in (("again", ()), ("other", ("--model.seed=1",))):
        fit(tmp_path / name, *words)
        found = main(["test", f"--out={tmp_path / name}"])
        assert (found["cells"] == tested["cells"]) == (name == "again")
        assert (found["errors"] == tested["errors"]) == (name == "again")


class Killed(BaseException):
    """As from outside."""


@pytest.mark.parametrize("arch", ["ae", "dae"])
def test_a_killed_fit_ends_as_an_uninterrupted_one(arch, tmp_path, monkeypatch):
    words = [f"--model.arch={arch}", "--trainer.max_epochs=3"]
    fit(tmp_path / "whole", *words)
    inner = run.BrainModule.training_step

    def mortal(self, batch, batch_idx):
        if self.criterion.kind == "l1" and self.global_step == 3:  # in the second epoch of the second training
            raise Killed
        return inner(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(run.BrainModule, "training_step", mortal)
        with pytest.raises(Killed):
            fit(tmp_path / "killed", *words)
    assert (tmp_path / "killed" / "fq" / run.MODEL).exists()
    assert not (tmp_path / "killed" / "l1" / run.MODEL).exists()
    found = fit(tmp_path / "killed", *words)
    for loss in ("fq", "l1"):
        assert same(*(weights(tmp_path / name / loss / run.MODEL) for name in ("whole", "killed")))
        assert found[loss] == run.history(tmp_path / "whole" / loss)


def test_another_configuration_is_refused_and_a_finished_fit_is_not_repeated(trained):
    path = trained / "fq" / run.MODEL
    before = path.stat().st_mtime_ns
    fit(trained)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="another configuration"):
        fit(trained, "--model.seed=5")


def test_options_of_the_test_change_those_of_the_run(trained):
    found = main(["test", f"--out={trained}", "--data.lesions=ms", "--model.residual=ssim"])
    assert {cell["map"] for cell in found["cells"]} == {"l1", "fq", "ssim", "intensity"}
    assert "map ssim" in found["about"]
    assert (trained / "test-ms" / "metrics.json").exists()
    assert all("ms" in path.name for path in (trained / "test-ms" / "maps").iterdir())


def test_predict_writes_maps_on_the_grid_of_the_files(trained, tested, tmp_path):
    source = next((trained / "test-tumour" / "maps").iterdir())  # any volume with a background of zeros will do
    image = nibabel.load(source)
    affine = np.diag([-6.0, 6.0, 6.0, 1.0])  # stored from left to right
    scans = tmp_path / "scans"
    scans.mkdir()
    nibabel.save(nibabel.Nifti1Image(image.get_fdata(dtype=np.float32)[::-1], affine), scans / "one_flair.nii.gz")
    (path,) = main(["predict", f"--out={trained}", f"--data.predict.images={scans}"])
    found = nibabel.load(path)
    assert found.shape == image.shape
    assert np.array_equal(found.affine, affine)
    called = nibabel.load(path.with_name(path.name.replace(".nii.gz", "-called.nii.gz")))
    assert set(np.unique(called.get_fdata())) <= {0.0, 1.0}
    assert (path.parent / "panel.png").exists()


def test_evaluate_measures_the_frozen_threshold_on_chips(trained, tested, tmp_path):
    table = tmp_path / "chips.csv"
    main(["evaluate", f"--out={trained}", "--cim.sigma=0.1", "--chips=3", f"--csv={table}"])
    with table.open() as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    assert len(rows) == 3
    assert len({row["test/auprc"] for row in rows}) == 3
    assert all(0 <= float(row["test/dice"]) <= 1 for row in rows)


@pytest.mark.parametrize("arch", ARCHS)
def test_every_model_runs_with_the_whole_config(arch, tmp_path):
    words = [f"--config={CONFIG}", *TINY, f"--model.arch={arch}", "--trainer.max_epochs=1", "--control=null"]
    if arch == "pddpm":
        words += ["--model.width=2", "--data.slices_per_epoch=2", "--data.batch_size=2"]
    assert list(main(["fit", *words, f"--out={tmp_path}"])) == ["fq"]
    found = main(["test", f"--out={tmp_path}", "--data.counts.lesion_test=1"])
    assert [(cell["trained"], cell["map"]) for cell in found["cells"]][:2] == [("fq", "l1"), ("fq", "fq")]


def test_variation_on_the_command_line_changes_the_fit(trained, tmp_path):
    fit(tmp_path / "noisy", "--cim.sigma=0.1", "--control=null")
    assert not same(weights(trained / "fq" / run.MODEL), weights(tmp_path / "noisy" / "fq" / run.MODEL))


def test_fast_loses_to_options_beside_it_and_wins_over_configs(tmp_path, monkeypatch):
    seen = {}
    monkeypatch.setattr(run, "fit", lambda *given: seen.update(config=given[4]) or {})
    config = tmp_path / "x.yaml"
    config.write_text("data: {size: 96, counts: {train: 50}}\n")
    main(["fit", f"--config={config}", "--fast", "--trainer.max_epochs=9", f"--out={tmp_path / 'run'}"])
    assert seen["config"]["data"]["size"] == 64
    assert seen["config"]["data"]["counts"]["train"] < 50
    assert seen["config"]["trainer"]["max_epochs"] == 9


def test_mistakes_are_named(trained, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["test", f"--out={tmp_path / 'none'}"])
    assert "run fit with this --out first" in capsys.readouterr().err
    with pytest.raises(ValueError, match="does not fit arch=dae"):
        main(["test", f"--out={trained}", "--model.arch=dae"])
    with pytest.raises(SystemExit):
        fit(tmp_path / "odd", "--data.size=40")
    assert "multiple of 16" in capsys.readouterr().err
