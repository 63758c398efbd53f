import pytest
import torch

from recipes.cryo_em.cache import with_truth
from recipes.cryo_em.commands_data import COMMANDS
from recipes.cryo_em.relion import read_relion

pytest.importorskip("mrcfile")
pytest.importorskip("roma")

SMALL = ["--data.source=beads", "--data.count=6", "--data.size=16", "--data.pixel_size=6", "--data.progress=false"]


def refuse(_):
    pytest.fail("the data commands need no main")


@pytest.fixture
def simulated(tmp_path, capsys):
    words = [*SMALL, f"--data.cache={tmp_path / 'cache'}", f"--out={tmp_path / 'set'}"]
    found = COMMANDS["simulate"](words, refuse)
    assert str(tmp_path / "set" / "particles.star") in capsys.readouterr().out
    assert found["count"] == 6
    return tmp_path / "set"


def test_simulated_particles_are_written_with_their_truth(simulated):
    names = {path.name for path in simulated.iterdir()}
    assert names == {"particles.mrcs", "particles.star", "particles.cs", "poses.pkl", "ctf.pkl", "truth.npz"}
    found = with_truth(simulated / "truth.npz", read_relion(simulated / "particles.star"))
    assert found.truth.volumes(torch.tensor([0.5])).shape == (1, 16, 16, 16)


def test_files_are_rewritten_for_other_programs(simulated, tmp_path):
    words = ["--data.source=star", f"--data.path={simulated / 'particles.star'}", f"--out={tmp_path / 'two'}"]
    found = COMMANDS["export"]([*words, "--star_version=3.0"], refuse)
    assert set(found["files"]) == {"particles.mrcs", "particles.star", "particles.cs", "poses.pkl", "ctf.pkl"}
    first, second = read_relion(simulated / "particles.star"), read_relion(tmp_path / "two" / "particles.star")
    assert torch.allclose(first.rotations, second.rotations, atol=1e-5)
    assert torch.allclose(first.images[:], second.images[:], atol=1e-5)
    with pytest.raises(ValueError, match="rewritten by export"):
        COMMANDS["simulate"]([*words[:2], f"--out={tmp_path / 'three'}"], refuse)


def test_nothing_is_overwritten(simulated):
    with pytest.raises(ValueError, match="not an empty folder"):
        COMMANDS["simulate"]([*SMALL, f"--out={simulated}"], refuse)


def test_unknown_options_end_with_a_message(capsys):
    with pytest.raises(SystemExit):
        COMMANDS["simulate"](["--data.nonsense=1", "--out=x"], refuse)
    assert "nonsense" in capsys.readouterr().err
