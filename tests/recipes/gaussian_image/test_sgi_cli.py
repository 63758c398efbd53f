"""The SGI recipe through its own command line, as a user runs it."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.gaussian_image.codec.decoder import decode
from recipes.gaussian_image.images import load
from recipes.sgi import main

pytest.importorskip("constriction")
Image = pytest.importorskip("PIL.Image")

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "recipes" / "configs").glob("sgi*.yaml"))
HEIGHT, WIDTH = 40, 52
QUIET = "--trainer.enable_progress_bar=false"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    y, x = np.mgrid[:HEIGHT, :WIDTH] / 12
    pixels = np.stack([np.sin(x + y), np.cos(x - y), np.sin(x) * np.cos(2 * y)], -1) * 110 + 128
    path = tmp_path_factory.mktemp("photo") / "waves.png"
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def tiny(photo):
    sizes = {"num_seeds": 24, "k": 2, "feat_dim": 6, "hidden": 8, "levels": 2, "backend": "torch"}
    options = [f"--model.{name}={value}" for name, value in sizes.items()]
    return [f"--data.image={photo}", *options, "--fast", "--trainer.accelerator=cpu", QUIET]


@pytest.fixture(scope="module")
def fitted(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("sgi") / "run"
    return out, main(["fit", *tiny, "--codecs=[JPEG,WebP]", f"--out={out}"])


def test_fit_writes_everything_it_promises(fitted):
    out, found = fitted
    names = ["image.sgi", "last.ckpt", "config.json", "decoded.png", "overview.png", "rate-distortion.png"]
    for name in names:
        assert (out / name).stat().st_size > 0, name
    assert json.loads((out / "metrics.json").read_text()) == json.loads(json.dumps(found))
    page = (out / "report.html").read_text()
    assert page.count("<img") == 2
    assert "python recipes/sgi.py fit --data.image=" in page
    assert found["fit_seconds"] > 0
    assert {row["codec"] for row in found["others"]} | set(found["skipped"]) == {"JPEG", "WebP"}


def test_figures_are_of_the_file_alone(fitted, photo):
    out, found = fitted
    data = (out / "image.sgi").read_bytes()
    picture = decode(data).render().numpy().astype(np.float64)
    pixels = np.asarray(Image.open(photo)) / 255
    assert found["psnr"] == pytest.approx(-10 * np.log10(((np.clip(picture, 0, 1) - pixels) ** 2).mean()), abs=1e-3)
    assert found["file_bytes"] == len(data) == sum(found["sizes"].values())
    assert found["bpp"] == 8 * len(data) / (HEIGHT * WIDTH)
    shown = np.asarray(Image.open(out / "decoded.png")) / 255
    assert np.abs(shown - np.clip(picture, 0, 1)).max() < 0.5 / 255 + 1e-6
    assert found["psnr"] > 20  # the fit has learned something
    assert found["note"].startswith("no MS-SSIM")
    # An ideal coder needs about as much, but for settings and checksums.
    assert abs(found["file_bytes"] - sum(found["estimate"]["bytes"].values())) < 400


def test_a_finished_fit_is_kept_and_another_configuration_refused(fitted, tiny):
    out, found = fitted
    again = main(["fit", *tiny, "--codecs=[]", f"--out={out}"])
    assert again["psnr"] == found["psnr"]
    assert again["fit_seconds"] is None  # it took no time now
    assert again["others"] == []
    with pytest.raises(ValueError, match="another configuration"):
        main(["fit", *tiny, "--model.num_seeds=25", f"--out={out}"])


def test_encode_writes_the_file_that_fit_wrote(fitted, tmp_path, capsys):
    out, found = fitted
    main(["encode", str(out / "last.ckpt"), str(tmp_path / "new" / "photo.sgi")])
    assert (tmp_path / "new" / "photo.sgi").read_bytes() == (out / "image.sgi").read_bytes()
    assert f"{found['file_bytes']} bytes" in capsys.readouterr().out


def test_decode_draws_crops_and_other_sizes(fitted, tmp_path):
    file = str(fitted[0] / "image.sgi")

    def drawn(*options):
        path = tmp_path / "picture.png"
        main(["decode", file, str(path), "--backend=torch", *options])
        return np.asarray(Image.open(path)).astype(int)

    whole = drawn()
    assert whole.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(drawn("--crop=[5,8,25,38]") - whole[8:38, 5:25]).max() <= 1
    large = drawn("--crop=[5,8,25,38]", "--scale=2")
    assert large.shape == (60, 40, 3)
    averaged = large.reshape(30, 2, 20, 2, 3).mean((1, 3))
    assert np.abs(averaged - whole[8:38, 5:25]).mean() < 4
    assert drawn("--scale=0.5").shape == (20, 26, 3)
    assert drawn("--level=1").shape == (20, 26, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["decode", "FILE", "OUT/a.png", "--crop=[0,0,99,9]"], "region"),
        (["decode", "FILE", "OUT/a.png", "--scale=0"], "--scale=0"),
        (["decode", "FILE", "OUT/a.png", "--scale=2", "--level=1"], "exclude each other"),
        (["decode", "FILE", "OUT/a.nonsense"], "ending"),
        (["decode", "OUT/none.sgi", "OUT/a.png"], "none.sgi: no such file"),
        (["decode", "OUT/none.sgi", "OUT/a.png", "--scale=2"], "none.sgi: no such file"),
        (["decode", "FILE.png", "OUT/a.png"], "not a structured Gaussian image"),
        (["encode", "OUT/none.ckpt", "OUT/a.sgi"], "none.ckpt: no such checkpoint"),
        (["fit", "--data.image=OUT/none.png", "--out=OUT"], "no such image file"),
        (["chips", "--cim.sigma=0.1", "--out=OUT"], "leave out --cim.sigma"),
        (["chips", "--train.sigmas=[0]", "--out=OUT"], "must be above 0"),
        (["chips", "--study.parts=[context]", "--out=OUT"], "unknown parts"),
        (["race", "--images=[OUT/none.png]", "--out=OUT"], "no such image file"),
        (["race", "--methods=[Nobody]", "--out=OUT"], "no method 'Nobody'"),
    ],
)
def test_bad_words_end_in_a_message(fitted, tmp_path, words, message, capsys):
    files = {"OUT": str(tmp_path), "FILE.png": str(fitted[0] / "decoded.png"), "FILE": str(fitted[0] / "image.sgi")}
    for name, path in files.items():
        words = [path if word == name else word.replace(f"{name}/", f"{path}/") for word in words]
    with pytest.raises((ValueError, SystemExit)) as caught:
        main(words)
    assert message in f"{caught.value} {capsys.readouterr().err}"


def test_chips_compares_plain_and_noise_trained_nets(tiny, tmp_path, capsys):
    words = ["chips", *tiny, "--study.chips=4", "--train.sigmas=[0.1]", "--study.sigmas=[0.02,0.1]"]
    out = tmp_path / "study"
    found = main([*words, "--study.memory_sigmas=[0.05]", f"--out={out}"])
    rows = {(row["net"], row["part"], row["sigma"]): row for row in found["rows"]}
    assert len(rows) == 2 * (3 * 3 + 2)
    assert {row["chips"] for row in rows.values()} == {1, 4}
    config = json.loads((out / "sigma0.1" / "config.json").read_text())
    assert config["cim"]["sigma"] == 0.1
    assert (config["model"]["lr_scale"], config["model"]["rate_weight"]) == pytest.approx((2.5, 0.55 * 1.5e-3))
    plain, trained = (rows[net, "both networks", 0.1]["mean"] for net in ("plain", "trained at 0.1"))
    assert trained > plain
    clean = json.loads((out / "plain" / "metrics.json").read_text())["psnr"]
    assert rows["plain", "attributes", 0.0]["mean"] == pytest.approx(clean, abs=1e-3)
    page = (out / "report.html").read_text()
    assert page.count("<img") == 1
    assert "Attributes in analog memory" in page
    assert "What training under variation gains" in capsys.readouterr().out
    kept = (out / "chips" / "plain-both-networks-0.1.csv").read_bytes()
    again = main([*words, "--study.memory_sigmas=[0.05]", f"--out={out}"])  # all of it is there already
    assert again["rows"] == found["rows"]
    assert (out / "chips" / "plain-both-networks-0.1.csv").read_bytes() == kept


def test_race_shows_every_method_beside_classical_codecs(photo, tmp_path, capsys):
    methods, steps = "[SGI,GaussianImage]", "[5,10]"
    words = [f"--images=[{photo}]", f"--methods={methods}", "--bpps=[16,24]", f"--steps={steps}", "--codecs=[JPEG]"]
    out = tmp_path / "race"
    found = main(["race", *words, f"--out={out}"])
    fits = [row for row in found["rows"] if row["kind"] == "fit"]
    assert {(row["method"], row["steps"]) for row in fits} == {
        (m, s) for m in ("SGI", "GaussianImage") for s in (5, 10)
    }
    for name in ("rate-distortion.png", "psnr-against-time-16bpp.png", "rows.json"):
        assert (out / name).stat().st_size > 0, name
    assert (out / "report.html").read_text().count("<img") == 3
    assert "SGI minus others at equal bytes" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_config_runs(config, tiny, tmp_path):
    found = main(["fit", f"--config={config}", *tiny, "--codecs=[]", f"--out={tmp_path / 'run'}"])
    assert math.isfinite(found["psnr"])


def test_evaluate_of_the_command_line_draws_chips_of_the_networks_only(fitted, tiny, capsys):
    words = [word for word in tiny if word != "--fast"]
    main(
        [
            "evaluate",
            *words,
            f"--ckpt_path={fitted[0] / 'last.ckpt'}",
            "--cim.sigma=0.1",
            "--chips=2",
            "--trainer.logger=false",
        ]
    )
    said = capsys.readouterr().out
    assert "psnr" in said
    assert "2 chips" in said


def test_nothing_is_loaded_that_is_not_needed_and_help_names_every_subcommand():
    code = (
        "import sys; import recipes.sgi;"
        "print([name for name in ('numba', 'constriction', 'skimage', 'gsplat') if name in sys.modules]);"
        "recipes.sgi.main(['--help'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120, check=True
    )
    assert run.stdout.startswith("[]")
    for name in ("fit", "evaluate", "encode", "decode", "chips", "race"):
        assert name in run.stdout


def test_the_photo_is_read_as_it_is(photo):
    assert torch.equal(load(str(photo)), torch.from_numpy(np.asarray(Image.open(photo)).copy()).float() / 255)
