import json

import pytest
import torch

from recipes.cryo_em.commands_eval import COMMANDS
from recipes.cryo_em.datamodule import CryoData
from recipes.cryo_em.fsc import fourier_shell_correlation
from recipes.cryo_em.maps import read_map, write_map
from recipes.cryo_em.masks import soft_mask
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.trained import load_run
from tests.recipes.cryo_em.test_cryodrgn_compare import stand_in

pytest.importorskip("mrcfile")
pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")

DATA = {
    "source": "beads",
    "count": 48,
    "size": 16,
    "pixel_size": 6.0,
    "holdout": 0.25,
    "cache": None,
    "progress": False,
}
SETTINGS = {"size": 16, "pixel_size": 6.0, "encoder_width": 8, "encoder_depth": 1, "blocks": 1, "channels": 8}
FEW = ["--options.states=3", "--options.nearest=4"]


def write_run(folder, **data):
    """What `fit` leaves behind."""
    torch.manual_seed(0)
    model = CryoFormer(**SETTINGS)
    particles = CryoData(**{**DATA, **data}).train
    model.base.data.copy_(particles.truth.volumes(torch.tensor([0.5]))[0])
    folder.mkdir(parents=True)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"cryoformer": SETTINGS, "state_dict": weights}, folder / "last.ckpt")
    (folder / "config.json").write_text(json.dumps({"data": {**DATA, **data}}))
    return folder


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def do(name, *words):
    return COMMANDS[name]([str(word) for word in words], lambda _: pytest.fail("nothing to fit"))


def test_eval_writes_maps_pictures_and_every_number(run, capsys):
    found = do("eval", run, *FEW)
    out = run / "eval"
    for name in ("latents.npz", "latents.png", "fsc.png", "half-maps.png", "sections.png", "flexibility.png"):
        assert (out / name).stat().st_size > 1000
    assert (out / "traversal.gif").is_file()
    names = {path.stem for path in (out / "maps").glob("*.mrc")}
    assert {
        "state00",
        "state02",
        "traversal00",
        "mask",
        "consensus",
        "homogeneous",
        "half1",
        "half2",
        "density-spread",
    } <= names
    assert read_map(out / "maps" / "state00.mrc")[1] == pytest.approx(6.0)
    assert json.loads((out / "metrics.json").read_text())["scores"] == json.loads(json.dumps(found["scores"]))
    assert {"states", "single", "traversal", "homogeneous", "shuffled", "held_out", "half_maps"} <= set(found["scores"])
    page = (out / "report.html").read_text()
    assert f"{found['scores']['states']['motion']:.3f}" in page
    assert page.count("<img") == 5
    assert "states by true label" in capsys.readouterr().out


def test_eval_beside_a_control(tmp_path, run):
    (run / "metrics.json").write_text(json.dumps({"scores": {"amplitude": 0.25}}))
    control = write_run(tmp_path / "still", frames="one")
    found = do("eval", control, f"--moving={run}", *FEW)
    assert found["control"]["moving"] == 0.25
    assert found["control"]["ratio"] == pytest.approx(found["scores"]["amplitude"] / 0.25)
    assert json.loads((control / "eval" / "metrics.json").read_text())["control"] == found["control"]


def test_traverse_writes_maps_in_order(run):
    found = do("traverse", run, "--component=2", "--states=3", "--nearest=4")
    assert [file.name for file in found["files"]] == ["000.mrc", "001.mrc", "002.mrc"]
    assert all(file.is_file() for file in found["files"])
    assert (run / "traverse-pc2" / "traversal.gif").is_file()
    assert found["positions"] == sorted(found["positions"])


@pytest.fixture
def maps(tmp_path):
    first, noise = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    first[4:12, 4:12, 4:12] += 5
    write_map(tmp_path / "a.mrc", first, 3.0)
    write_map(tmp_path / "b.mrc", first + noise, 3.0)
    return tmp_path / "a.mrc", tmp_path / "b.mrc"


def test_fsc_of_two_maps(maps, capsys):
    found = do("fsc", *maps, f"--out={maps[0].parent / 'fsc'}")
    assert found["threshold"] == 0.5
    assert len(found["correlation"]) == 9
    assert f"{found['resolution']:.2f} Å" in capsys.readouterr().out
    assert (maps[0].parent / "fsc" / "fsc.png").is_file()
    assert do("fsc", maps[0], maps[0])["resolution"] == pytest.approx(6.0)
    assert len(do("fsc", *maps, "--bins=floor", "--crossing=last")["correlation"]) == 8


def test_fsc_of_half_maps(maps):
    found = do("fsc", *maps, "--half", "--mask=auto")
    assert {"resolution", "masked", "unmasked", "start"} <= set(found)


def test_a_hard_mask_from_a_file_gets_a_soft_edge(maps):
    mask = torch.zeros(16, 16, 16)
    mask[6:10, 6:10, 6:10] = 1
    write_map(maps[0].parent / "mask.mrc", mask, 3.0)
    hard = do("fsc", *maps, f"--mask={maps[0].parent / 'mask.mrc'}")["correlation"]
    (first, _), (second, _) = map(read_map, maps)
    assert hard == pytest.approx(
        fourier_shell_correlation(first, second, 3.0, soft_mask(mask > 0)).correlation.tolist()
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--half", "--threshold=0.5"], "--half goes with"), (["--mask=nowhere.mrc"], "no such file")],
)
def test_fsc_refuses_what_does_not_go_together(maps, words, message):
    with pytest.raises(ValueError, match=message):
        do("fsc", *maps, *words)


def test_fsc_refuses_other_voxels_and_boxes(maps):
    write_map(maps[0].parent / "other.mrc", torch.rand(16, 16, 16), 2.0)
    with pytest.raises(ValueError, match="voxels of"):
        do("fsc", maps[0], maps[0].parent / "other.mrc")
    write_map(maps[0].parent / "other.mrc", torch.rand(8, 8, 8), 3.0)
    with pytest.raises(ValueError, match="boxes of"):
        do("fsc", maps[0], maps[0].parent / "other.mrc")


def test_chips_fits_plain_and_noisy_and_measures_both(tmp_path, capsys):
    asked = []

    def main(words):
        asked.append(words)
        write_run(tmp_path / "chips" / words[-1].rpartition("/")[2])

    study = ["--study.chips=2", "--study.images=30", "--study.states=3", "--study.nearest=4", "--study.sigmas=[0.2]"]
    found = COMMANDS["chips"]([*study, "--data.source=beads", f"--out={tmp_path / 'chips'}"], main)
    out = tmp_path / "chips"
    assert asked == [
        ["fit", "--data.source=beads", f"--out={out / 'plain'}"],
        ["fit", "--data.source=beads", "--cim.sigma=0.2", f"--out={out / 'sigma0.2'}"],
    ]
    assert {row["part"] for row in found["rows"]} == {"everything", "encoder", "decoder", "feature table"}
    assert all(row["gain"] == 0 for row in found["gains"])  # the two fits are the same here
    assert found["pays"] == {"trained at 0.2": False}
    assert (out / "report.html").is_file()
    assert (out / "chips.png").is_file()
    assert "standard error" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"leave out --cim\.sigma"):
        COMMANDS["chips"](["--cim.sigma=0.1"], main)


def test_compare_says_what_to_run_next(run, tmp_path, capsys):
    found = do("compare", run, tmp_path / "drgn", *FEW)
    assert found["commands"][0].startswith("cryodrgn train_vae")
    said = capsys.readouterr().out
    assert found["commands"][0] in said
    assert "cryoformer.py compare" in said
    assert (tmp_path / "drgn" / "poses.pkl").is_file()


def test_compare_to_its_end(run, tmp_path):
    particles = load_run(run).data.train
    found = {}
    while "cryodrgn" not in found:
        found = do("compare", run, tmp_path / "drgn", *FEW)
        for command in found.get("commands", ()):
            stand_in(command, particles)
    assert found["cryodrgn"]["states"]["motion"] > 0.9 > found["ours"]["states"]["motion"]
    assert f"{found['cryodrgn']['states']['motion']:.3f}" in (tmp_path / "drgn" / "report.html").read_text()


def test_a_folder_without_a_fit_is_refused(tmp_path):
    for name in ("eval", "traverse"):
        with pytest.raises(ValueError, match="not the folder of a fit"):
            do(name, tmp_path)
