"""The CryoFormer recipe through its own command line, as a user runs it."""

import json
from pathlib import Path

import pytest
import torch

from recipes.cryo_em.maps import read_map
from recipes.cryo_em.report import pose_facts
from recipes.cryo_em.trained import load_run
from recipes.cryoformer import main

CONFIG = Path(__file__).parents[2] / "recipes" / "configs" / "cryoformer.yaml"
TINY = [
    "--data.source=beads",
    "--data.count=120",
    "--data.size=16",
    "--data.pixel_size=6",
    "--data.cache=null",
    "--data.progress=false",
    "--model.queries=2",
    "--model.channels=4",
    "--model.heads=2",
    "--model.encoder_width=16",
    "--model.encoder_depth=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.max_epochs=1",
]


def test_fit_writes_what_it_promises_and_refuses_another_configuration(tmp_path):
    out = tmp_path / "run"
    found = main(["fit", *TINY, f"--out={out}"])
    written = json.loads((out / "metrics.json").read_text())
    assert written["scores"]["states"]["motion"] == found["scores"]["states"]["motion"]
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 7
    assert read_map(out / "maps" / "consensus.mrc")[1] == pytest.approx(6)
    assert {"latents.npz", "report.html", "traversal.gif"} <= {path.name for path in out.iterdir()}
    again = main(["fit", *TINY, f"--out={out}"])
    assert again["scores"]["states"] == found["scores"]["states"]
    with pytest.raises(ValueError, match="another configuration"):
        main(["fit", *TINY, "--model.hidden=8", f"--out={out}"])


@pytest.mark.parametrize(
    "options",
    [
        ["--model.decoder=mlp", "--model.values=queries"],
        ["--model.volume=hash", "--model.pose=refine", "--model.rates.pose_from=0"],
        ["--model.pose=encoder", "--model.loss=real", "--data.holdout=0.2"],
        ["--cim.sigma=0.1", "--data.frames=one", "--fast"],
    ],
)
def test_variants(tmp_path, options):
    found = main(["fit", *TINY, *options, f"--out={tmp_path}"])
    assert found["scores"]["particles"] == (96 if "--data.holdout=0.2" in options else 120)


def test_poses_that_were_refined_are_judged_and_used(tmp_path):
    """Also by `eval`, from the checkpoint, and images that were not fitted keep the poses they are given."""
    options = ["--model.pose=refine", "--data.pose_errors=[2,1]", "--data.snr=10", "--data.holdout=0.2"]
    out = tmp_path / "run"
    found = main(["fit", *TINY, *options, "--model.rates.pose_from=0", "--trainer.max_epochs=6", f"--out={out}"])
    off = found["pose_errors"]
    assert (off["angle_given"], off["shift_given"]) == pytest.approx((2, 1), abs=1e-2)
    assert off["shift_bound"] < off["shift"] < 0.8
    again = main(["eval", str(out)])
    assert again["pose_errors"] == pytest.approx(off)
    assert again["scores"]["states"]["motion"] == pytest.approx(found["scores"]["states"]["motion"], abs=1e-4)
    run = load_run(out)
    assert not run.model.poses.shift[run.data.held_out_rows].any()
    assert "poses" in dict(pose_facts(found))


def test_the_config_is_complete(tmp_path):
    found = main(["fit", f"--config={CONFIG}", *TINY, f"--out={tmp_path}"])
    assert found["config"]["model"]["loss"] == "fourier"


def test_variation_on_the_command_line_changes_the_fit(tmp_path):
    clean = main(["fit", *TINY, f"--out={tmp_path / 'clean'}"])
    noisy = main(["fit", *TINY, "--cim.sigma=0.3", f"--out={tmp_path / 'noisy'}"])
    assert clean["scores"]["amplitude"] != noisy["scores"]["amplitude"]


def test_subcommands_are_there(tmp_path):
    found = main(["simulate", *(word for word in TINY if word.startswith("--data.")), f"--out={tmp_path / 'set'}"])
    assert found["count"] == 120
    with pytest.raises(ValueError, match="not the folder of a fit"):
        main(["eval", str(tmp_path)])


def test_a_missing_file_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--data.source=star", f"--data.path={tmp_path / 'none.star'}", f"--out={tmp_path / 'run'}"])
    assert "none.star" in capsys.readouterr().err
