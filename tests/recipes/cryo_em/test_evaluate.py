import numpy as np
import pytest
import torch

from recipes.cryo_em.controls import LARGEST_GAP, held_out, still
from recipes.cryo_em.evaluate import Options, decode, encode, evaluate
from recipes.cryo_em.homogeneous import Homogeneous, reconstruct
from recipes.cryo_em.judge import Judge, shuffled
from recipes.cryo_em.particles import Particles
from recipes.cryo_em.scores import motion_correlation
from recipes.cryo_em.states import label_states
from tests.recipes.cryo_em.fake import SIZE, Knowing, hinge

FEW = Options(states=5, nearest=8)


@pytest.fixture(scope="module")
def particles():
    return hinge()


@pytest.fixture(scope="module")
def perfect(particles):
    return evaluate(Knowing(particles), particles, FEW)


def test_a_model_that_knows_the_truth_scores_full_marks(perfect):
    assert perfect.scores["spearman"] > 0.999
    for name in ("states", "single", "traversal"):
        assert perfect.scores[name]["motion"] > 0.97
        assert perfect.scores[name]["auc_worst"] > 0.9
    assert perfect.scores["states"]["auc_mobile"] > 0.95
    assert perfect.scores["amplitude"] == pytest.approx(perfect.scores["true_amplitude"], rel=0.1)
    assert perfect.scores["flexibility"]["density"]["auroc"] > 0.95
    assert perfect.scores["flexibility"]["density"]["spearman"] > 0.95


def test_the_sign_of_the_first_component_is_found_by_the_labels(particles, perfect):
    turned = evaluate(Knowing(particles, flip=True), particles, FEW)
    assert turned.scores["spearman"] == pytest.approx(perfect.scores["spearman"])
    assert turned.scores["traversal"]["motion"] > 0.97


def test_shuffled_latents_find_no_motion(perfect):
    assert abs(perfect.scores["shuffled"]["motion"]) < 0.5 * perfect.scores["single"]["motion"]
    assert len(set(perfect.scores["shuffled"]["each"])) > 1


def test_shuffling_takes_all_of_the_motion_on_average(particles):
    model, labels = Knowing(particles), particles.labels
    latents = encode(model, particles)
    judge = Judge.of(particles, model.support, 5)
    found = [
        motion_correlation(decode(model, label_states(latents, shuffled(labels, seed), 5, 1).latents), judge.volumes)
        for seed in range(30)
    ]
    assert abs(np.mean(found)) < 4 * np.std(found) / 30**0.5 + 0.02


def test_one_map_for_all_has_no_motion_and_a_worse_worst_state(particles, perfect):
    support = Knowing(particles).support
    model = Homogeneous(reconstruct(particles, support).fitted, support, particles.pixel_size)
    found = evaluate(model, particles, FEW)
    assert found.scores["states"]["motion"] == found.scores["amplitude"] == found.scores["spearman"] == 0
    assert found.scores["states"]["auc_worst"] < perfect.scores["states"]["auc_worst"] - 0.05
    assert "attention" not in found.scores["flexibility"]


def test_without_a_truth_there_are_maps_and_no_scores(particles):
    blind = Particles(particles.images, particles.rotations, particles.shifts, particles.ctf, particles.pixel_size)
    found = evaluate(Knowing(particles), blind, FEW)
    assert found.by_label is None
    assert found.shown is found.path
    assert not {"states", "spearman", "flexibility"} & set(found.scores)
    assert found.path.volumes.shape == (5, SIZE, SIZE, SIZE)
    assert found.scores["amplitude"] > 0


def test_latents_are_saved_by_image(tmp_path, particles, perfect):
    perfect.save(tmp_path / "latents.npz")
    with np.load(tmp_path / "latents.npz") as saved:
        assert saved["latents"].shape == (len(particles), 1, 3)
        assert np.array_equal(saved["labels"], particles.labels.numpy())
        for number, members in enumerate(perfect.clusters.states.members):
            assert set(saved["cluster"][members.numpy()]) == {number}


def test_unseen_images_are_placed_on_the_axis_of_the_seen_ones(particles):
    model = Knowing(particles, error=0.1)
    seen, unseen = particles.subset(slice(0, 180)), particles.subset(slice(180, None))
    found = held_out(model, seen, unseen)
    assert 0.8 < found.seen < 1
    assert found.numbers()["passed"] is (abs(found.seen - found.unseen) <= LARGEST_GAP)


def test_an_encoder_that_remembers_images_is_found_out(particles):
    model = Knowing(particles)
    model.known = model.known.clone()
    model.known[180:] = torch.rand(60, generator=torch.Generator().manual_seed(0))
    found = held_out(model, particles.subset(slice(0, 180)), particles.subset(slice(180, None)))
    assert found.seen > 0.999
    assert abs(found.unseen) < 0.4
    assert not found.passed


def test_the_negative_control_compares_amplitudes():
    assert still({"amplitude": 0.02}, {"amplitude": 0.2}) == {
        "still": 0.02,
        "moving": 0.2,
        "ratio": pytest.approx(0.1),
        "passed": True,
    }
    assert not still({"amplitude": 0.1}, {"amplitude": 0.2})["passed"]
    with pytest.raises(ValueError, match="no motion"):
        still({"amplitude": 0.1}, {"amplitude": 0.0})


def test_data_that_do_not_move_can_be_judged():
    quiet = hinge(count=40, still=True)
    judge = Judge.of(quiet, torch.ones(SIZE, SIZE, SIZE), 3)
    found = judge.score(judge.volumes)
    assert found.motion == found.amplitude == judge.amplitude == 0
    assert found.auc_mobile is None
    assert judge.locates(judge.volumes[0])["auroc"] is None


def test_bad_input_is_refused(particles):
    with pytest.raises(ValueError, match="states=1"):
        Options(states=1)
    with pytest.raises(ValueError, match="at least as many particles"):
        evaluate(Knowing(particles), particles.subset(slice(0, 3)), FEW)
    with pytest.raises(ValueError, match="not simulated"):
        Judge.of(
            Particles(particles.images, particles.rotations, particles.shifts, None, 1.0), torch.ones(SIZE, SIZE, SIZE)
        )
