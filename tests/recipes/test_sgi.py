"""The SGI recipe through its own command line, as a user runs it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.sgi import main

Image = pytest.importorskip("PIL.Image")
CONFIG = Path(__file__).parents[2] / "recipes" / "configs" / "sgi.yaml"


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "waves.png"
    y, x = np.mgrid[:48, :64] / 64
    waves = np.stack([x, 0.5 + 0.4 * np.sin(9 * y), 0.5 + 0.4 * np.cos(7 * x * y)], -1)
    Image.fromarray((255 * waves).astype(np.uint8)).save(path)
    return path


def options(image, out, steps):
    return [
        "fit",
        f"--data.image={image}",
        f"--out={out}",
        f"--trainer.max_steps={steps}",
        "--trainer.enable_progress_bar=false",
        "--model.num_seeds=30",
        "--model.backend=torch",
        "--codecs=[]",
    ]


def test_fit_writes_what_it_promises_and_goes_on_where_it_ended(image, tmp_path):
    out = tmp_path / "run"
    found = main(options(image, out, 40))
    written = json.loads((out / "metrics.json").read_text())
    assert (written["psnr"], written["file_bytes"]) == (found["psnr"], found["file_bytes"])
    assert found["psnr"] > 15
    assert found["bpp"] == pytest.approx(found["file_bytes"] * 8 / (48 * 64))
    assert torch.load(out / "last.ckpt", weights_only=True)["global_step"] == 40
    again = main(options(image, out, 40))
    assert (again["psnr"], again["file_bytes"]) == (found["psnr"], found["file_bytes"])
    with pytest.raises(ValueError, match="another configuration"):
        main(options(image, out, 41))


def test_variation_on_the_command_line_changes_the_fit(image, tmp_path):
    clean = main(options(image, tmp_path / "clean", 12))
    noisy = main([*options(image, tmp_path / "noisy", 12), "--cim.sigma=0.1"])
    assert clean["psnr"] != noisy["psnr"]


def test_the_config_is_complete(image, tmp_path):
    found = main([*options(image, tmp_path / "run", 3), f"--config={CONFIG}", "--model.num_seeds=20",
                  f"--data.image={image}", "--trainer.max_steps=3"])  # fmt: skip
    assert found["psnr"] > 0


def test_a_missing_image_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(options(tmp_path / "none.png", tmp_path / "run", 3))
    assert "no such image file" in capsys.readouterr().err
