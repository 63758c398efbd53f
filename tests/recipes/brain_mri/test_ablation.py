import dataclasses
import json

import numpy as np
import pytest

from recipes.brain_mri import ablation, ablation_job
from recipes.brain_mri.ablation import COMMANDS, jobs_of
from recipes.brain_mri.ablation_job import Job, Settings, run_job
from recipes.brain_mri.ablation_tables import Table

SETTINGS = Settings(source="phantom", size=32, train=2, val=1, test=2, epochs=1, bottleneck_epochs=1, cache=None)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    jobs = jobs_of(["flair"], ["dae"], ["off", "on"], ["l1", "fq"], [0, 1])
    return out, jobs, ablation.ablate(jobs, SETTINGS, out, command="a command")


def test_grid():
    jobs = jobs_of(["t2", "flair"], ["ae", "dae"], ["on", "off"], ["l1", "fq"], [0, 1, 2])
    assert len(jobs) == len({job.name for job in jobs}) == 48
    assert [job.seed for job in jobs] == [0] * 16 + [1] * 16 + [2] * 16
    with pytest.raises(ValueError, match="seeds must be one or several different ones"):
        jobs_of(["t2"], ["ae"], ["on"], ["l1"], [0, 0])
    with pytest.raises(ValueError, match="archs must be"):
        jobs_of(["t2"], [], ["on"], ["l1"], [0])


def test_one_training_serves_both_maps_and_lesions(finished):
    out, jobs, _ = finished
    found = jobs[0].found(out)
    assert set(found["lesions"]) == {"tumour", "ms"}
    for kind, of in found["lesions"].items():
        assert all(kind in name for name in of["volumes"])
        for row in of["maps"].values():
            assert len(row["auprc"]) == 2
            assert "1 lesion validation volume" in row["threshold"]["origin"]
    assert {job.found(out)["inversion"]["inverted"] for job in jobs if job.air == "on"} == {True}
    assert (out / "report.html").exists()


def test_killed_run_goes_on_and_gives_the_same(finished, monkeypatch):
    out, jobs, found = finished
    (out / "jobs" / f"{jobs[3].name}.json").unlink()
    trained = []
    monkeypatch.setattr(ablation, "run_job", lambda job, **how: trained.append(job) or run_job(job, **how))
    again = ablation.ablate(jobs, SETTINGS, out, command="a command")
    assert trained == [jobs[3]]
    assert again["cells"] == found["cells"]
    assert json.loads((out / "metrics.json").read_text())["effects"] == json.loads(json.dumps(found["effects"]))


def test_same_job_same_scores(finished, tmp_path):
    out, jobs, _ = finished
    assert run_job(jobs[1], SETTINGS, tmp_path)["lesions"] == jobs[1].found(out)["lesions"]


def test_folder_of_other_settings_is_refused(finished):
    out, jobs, _ = finished
    with pytest.raises(ValueError, match="another configuration"):
        ablation.ablate(jobs, dataclasses.replace(SETTINGS, epochs=2), out)
    with pytest.raises(ValueError, match="processes must be at least 1"):
        ablation.ablate(jobs, SETTINGS, out, 0)
    with pytest.raises(ValueError, match="synthetic or phantom"):
        dataclasses.replace(SETTINGS, source="nifti").datamodule("t2", "ms")


def made_up(auprc):
    """A result whose scores are all one number."""
    row = {name: [auprc, auprc] for name in ablation_job.SCORES}
    row |= {"level_lesion": 0.4, "level_normal": 0.1, "level_normal_p99": 0.2}
    parts = dict.fromkeys(("brightness_lesion", "brightness_normal", "pattern_lesion", "pattern_normal"), 0.5)
    of = {"maps": {"l1": row, "fq": {**row, "auprc": [2 * auprc, 2 * auprc]}}, "air_seen": 1.5, **parts}
    return {"lesions": {"tumour": of, "ms": of}, "train_cpu_seconds": 1.0}


def test_effects_compare_what_differs_in_one_thing_alone():
    auprc = {("off", "l1"): 0.1, ("off", "fq"): 0.2, ("on", "l1"): 0.3, ("on", "fq"): 0.45}
    jobs = {Job("flair", "dae", *pair, seed): made_up(value) for pair, value in auprc.items() for seed in (0, 1)}
    plain = {name: [0.05, 0.05] for name in ablation_job.SCORES}
    table = Table(jobs, {"flair": {"tumour": plain, "ms": plain}})
    setting = ("flair", "tumour", "dae")
    assert table.values(setting, ("on", "fq", "fq"), "auprc").shape == (2, 2)
    assert np.all(table.values(setting, ("on", "fq", "fq"), "auprc") == 0.9)
    effects = {tuple(line[3:5]): line[5] for line in table.effect_table("inversion", "off", "on")[1][:4]}
    assert effects["l1", "l1"].startswith("+20.0")
    assert effects["fq", "fq"].startswith("+50.0")
    effects = {tuple(line[3:5]): line[5] for line in table.effect_table("training", "l1", "fq")[1][:4]}
    assert effects["off", "l1"].startswith("+10.0")
    assert effects["on", "fq"].startswith("+30.0")
    effects = {tuple(line[3:5]): line[5] for line in table.effect_table("map", "l1", "fq")[1][:4]}
    assert effects["on", "l1"] == "+30.0 [+30.0, +30.0] *"
    ratios = {tuple(line[3:5]): line[5:] for line in table.ratio_table()[1][:4]}
    assert ratios["l1", "fq"] == ["3.00", "3.00, 3.00"]
    assert table.reason_table()[1][0][-1] == "2"


@pytest.mark.filterwarnings("ignore:.*(near 0.5|many workers|LeafSpec).*")
def test_command_line(tmp_path, capsys):
    words = ["--settings.source=phantom", "--settings.size=32", "--settings.train=2", "--settings.epochs=1",
             "--settings.bottleneck_epochs=1",
             "--settings.cache=null", "--airs=[on]", "--losses=[fq]", f"--out={tmp_path}", "--fast"]  # fmt: skip
    found = COMMANDS["ablation"](words, None)
    assert found["settings"]["val"] == ablation.FAST.val
    assert found["settings"]["size"] == 32
    assert "Effect of map: fq minus l1" in capsys.readouterr().out
    assert "Effect of training" not in (tmp_path / "ablation.md").read_text()
