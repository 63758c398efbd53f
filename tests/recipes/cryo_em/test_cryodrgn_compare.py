import pickle
import shlex
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.cryo_em import cryodrgn_compare as drgn
from recipes.cryo_em.evaluate import Options, evaluate
from recipes.cryo_em.maps import write_map
from recipes.cryo_em.particles import Particles
from tests.recipes.cryo_em.fake import Knowing, hinge

pytest.importorskip("mrcfile")
FEW = Options(states=4, nearest=6)


@pytest.fixture(scope="module")
def particles():
    return hinge(count=60)


def stand_in(command, particles, sign=1.0):
    """What cryoDRGN would write for a command, had it learned the truth."""
    words = shlex.split(command)
    options = dict(pairwise(words))
    model = Knowing(particles)
    if words[1] == "train_vae":
        folder = Path(options["-o"])
        folder.mkdir()
        means = model.encode({"image": particles.images[slice(None)]})[:, 0].numpy()
        for epoch in (2, 10):
            with (folder / f"z.{epoch}.pkl").open("wb") as file:
                pickle.dump(means if epoch == 10 else 0 * means, file)
                pickle.dump(np.zeros_like(means), file)
        return
    latents = torch.from_numpy(np.loadtxt(options["--zfile"]).reshape(-1, 3)).float()
    for number, volume in enumerate(sign * model.volumes(latents[:, None])):
        write_map(Path(options["-o"]) / f"vol_{number:03d}.mrc", 5 * volume, float(options["--Apix"]))


def walk(folder, particles, sign=1.0):
    """Run the comparison to its end, doing for each command what cryoDRGN would."""
    mask, steps = Knowing(particles).support, []
    while True:
        step = drgn.advance(folder, particles, mask, FEW)
        steps.append(step)
        if step.scores is not None:
            return steps
        for command in step.commands:
            stand_in(command, particles, sign)


def test_the_same_maps_get_the_same_scores_as_ours(tmp_path, particles):
    steps = walk(tmp_path, particles)
    ours = evaluate(Knowing(particles), particles, FEW).scores
    theirs = steps[-1].scores
    assert len(steps) == 3
    assert theirs["spearman"] == pytest.approx(ours["spearman"])
    assert theirs["turned"] is False
    for kind in drgn.KINDS:
        for name, value in ours[kind].items():
            assert theirs[kind][name] == pytest.approx(value, abs=1e-3), (kind, name)


def test_inverted_maps_are_turned_and_it_is_said(tmp_path, particles):
    found = walk(tmp_path, particles, sign=-1.0)[-1].scores
    assert found["turned"] is True
    assert found["states"]["motion"] > 0.9


def test_commands_name_files_that_are_there(tmp_path, particles):
    step = drgn.advance(tmp_path, particles, torch.ones(16, 16, 16), FEW, zdim=3, epochs=5)
    words = shlex.split(step.commands[0])
    assert words[:2] == ["cryodrgn", "train_vae"]
    for word in (words[2], words[words.index("--poses") + 1], words[words.index("--ctf") + 1]):
        assert Path(word).is_file()
    assert words[words.index("--zdim") + 1] == "3"
    assert words[words.index("-n") + 1] == "5"
    stand_in(step.commands[0], particles)
    for command in drgn.advance(tmp_path, particles, torch.ones(16, 16, 16), FEW).commands:
        words = shlex.split(command)
        assert words[2].endswith("weights.10.pkl")
        assert np.loadtxt(words[words.index("--zfile") + 1]).shape == (4, 3)


def test_the_last_epoch_is_read(tmp_path):
    with pytest.raises(ValueError, match=r"no z\.N\.pkl"):
        drgn.latents_file(tmp_path)
    for name in ("z.9.pkl", "z.10.pkl", "z_mu.pkl"):
        (tmp_path / name).touch()
    assert drgn.latents_file(tmp_path).name == "z.10.pkl"
    assert drgn.latents_file(tmp_path / "z.9.pkl").name == "z.9.pkl"


def test_latents_of_other_images_are_refused(tmp_path):
    path = tmp_path / "z.1.pkl"
    path.write_bytes(pickle.dumps(np.zeros((5, 2))))
    assert drgn.read_latents(path, 5).shape == (5, 2)
    with pytest.raises(ValueError, match=r"\(6, z\)"):
        drgn.read_latents(path, 6)
    path.write_bytes(pickle.dumps(np.full((5, 2), np.nan)))
    with pytest.raises(ValueError, match="finite"):
        drgn.read_latents(path, 5)


def test_a_pickle_that_would_run_a_program_does_not(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    (tmp_path / "z.1.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"z\.1\.pkl"):
        drgn.read_latents(tmp_path / "z.1.pkl", 5)
    assert not (tmp_path / "ran").exists()


def test_maps_that_do_not_fit_are_refused(tmp_path):
    write_map(tmp_path / "vol_000.mrc", torch.rand(8, 8, 8), 2.0)
    for count, size, pixel, message in ((2, 8, 2.0, "1 maps"), (1, 16, 2.0, "box"), (1, 8, 3.0, "--Apix 3")):
        with pytest.raises(ValueError, match=message):
            drgn.read_volumes(tmp_path, count, size, pixel)
    assert drgn.read_volumes(tmp_path, 1, 8, 2.0).shape == (1, 8, 8, 8)


def test_without_a_truth_there_is_nothing_to_compare(tmp_path, particles):
    blind = Particles(particles.images, particles.rotations, particles.shifts, particles.ctf, 6.0)
    with pytest.raises(ValueError, match="not simulated"):
        drgn.advance(tmp_path, blind, torch.ones(16, 16, 16), FEW)
