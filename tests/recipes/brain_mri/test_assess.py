"""Thresholds, cells and errors of hand-made maps."""

import json

import numpy as np
import pytest

from recipes.brain_mri import assess, report
from recipes.brain_mri.air import air
from recipes.brain_mri.module import Examined
from recipes.brain_mri.phantom import phantom
from recipes.brain_mri.scores import dice
from recipes.brain_mri.thresholds import Threshold

SICK = [phantom(seed, 32, "flair", "tumour") for seed in range(3)]
HEALTHY = [phantom(seed, 32, "flair") for seed in range(5, 7)]


def noisy(volume, strength, seed=0):
    """A map that is `strength` in the lesion, above noise in [0, 1]."""
    noise = np.random.default_rng(seed).random(volume.mask.shape)
    return np.where(volume.mask, noise + strength * volume.seg, 0).astype(np.float32)


@pytest.fixture
def cells():
    def one(trained, kind, strength):
        test, rest = [noisy(v, strength) for v in SICK], [noisy(v, 0) for v in HEALTHY]
        found = assess.find_thresholds(test[:1], SICK[:1], rest, HEALTHY)
        return assess.cell(trained, kind, found, test, SICK, rest, HEALTHY)

    return [one("l1", "l1", 0.2), one("l1", "fq", 0.6), one("fq", "l1", 0.4), one("fq", "fq", 2.0)]


def test_without_marked_lesions_the_threshold_is_label_free():
    maps = [noisy(v, 0) for v in HEALTHY]
    found = assess.find_thresholds([], [], maps, HEALTHY)
    assert set(found) == {"fpr 1", "fpr 5", "fpr 10"}
    called = np.concatenate(
        [(each > assess.chosen(found).value)[v.mask] for each, v in zip(maps, HEALTHY, strict=True)]
    )
    assert called.mean() == pytest.approx(0.05, abs=1e-3)
    with pytest.raises(ValueError, match="needs validation volumes"):
        assess.find_thresholds([], [], [], [])


def test_a_cell_holds_what_its_name_says(cells):
    perfect = cells[-1]
    assert perfect.name == "fq/fq"
    assert perfect.scores.auprc == pytest.approx(1)
    by_hand = np.mean([dice(noisy(v, 2.0) > perfect.threshold.value, v.seg) for v in SICK])
    assert perfect.scores.dice.mean() == pytest.approx(by_hand, abs=0.02)  # but for small components
    row = perfect.row()
    assert row["auprc"][0] == pytest.approx(1)
    assert row["threshold"]["origin"].startswith("best Dice of 1 lesion validation volume")
    json.dumps(row, allow_nan=False)


def test_volumes_without_answers_are_refused():
    healthy = [noisy(v, 0) for v in HEALTHY]
    found = assess.find_thresholds([], [], healthy, HEALTHY)
    with pytest.raises(ValueError, match="no test volumes"):
        assess.cell("fq", "fq", found, [], [], [], [])
    unmarked = [SICK[0].__class__(**{**vars(SICK[0]), "seg": None})]
    with pytest.raises(ValueError, match="without a lesion mask: phantom-flair-tumour-0"):
        assess.cell("fq", "fq", found, [noisy(SICK[0], 1)], unmarked, [], [])


def test_differences_are_of_the_cells_they_name(cells):
    _, body = report.difference_table(cells)
    lines = {(line[0], line[1]): line[2] for line in body}
    means = {cell.name: 100 * cell.scores.auprc.mean() for cell in cells}
    expected = {
        ("map l1 to fq", "trained l1"): means["l1/fq"] - means["l1/l1"],
        ("map l1 to fq", "trained fq"): means["fq/fq"] - means["fq/l1"],
        ("training l1 to fq", "map l1"): means["fq/l1"] - means["l1/l1"],
        ("training l1 to fq", "map fq"): means["fq/fq"] - means["l1/fq"],
    }
    assert {key: float(text.split()[0]) for key, text in lines.items()} == pytest.approx(expected, abs=0.06)
    assert report.difference_table(cells[:1])[1] == []


def test_errors_tell_lesion_from_the_rest():
    volume = SICK[0]
    wrong = np.clip(volume.image + np.where(volume.seg, -0.2, 0.05) * volume.mask, 0, 1).astype(np.float32)
    found = assess.errors([Examined(wrong, {})], [volume])
    moved = np.abs(wrong - volume.image)
    assert found["l1_lesion"] == pytest.approx(moved[volume.seg].mean(), abs=1e-6)
    assert found["l1_normal"] == pytest.approx(moved[volume.mask & ~volume.seg].mean(), abs=1e-6)
    assert found["l1_to_healthy"] == pytest.approx(np.abs(wrong - volume.healthy)[volume.seg].mean(), abs=1e-6)
    assert found["dssim_lesion"] > 0
    perfect = assess.errors([Examined(volume.image, {})], [volume])
    assert perfect["l1_lesion"] == perfect["dssim_normal"] == 0


def test_intensity_ratio_is_of_what_the_model_sees():
    found = assess.intensity_ratio(SICK, True)
    assert found["air"] == pytest.approx(np.mean([air(v.image, v.mask, v.seg) for v in SICK]))
    assert found["air_seen"] == pytest.approx(np.mean([air(1 - v.image, v.mask, v.seg) for v in SICK]))
    assert assess.intensity_ratio(SICK, False)["air_seen"] == found["air"]


def test_thresholds_survive_a_file(tmp_path):
    found = {"fq/l1": {"best dice": Threshold(0.25, "somewhere")}}
    assess.write_thresholds(tmp_path / "t.json", found, {"size": 32})
    assert assess.read_thresholds(tmp_path / "t.json") == (found, {"size": 32})
    (tmp_path / "t.json").write_text('{"thresholds": {"fq/l1": 3}}')
    with pytest.raises(ValueError, match=r"t\.json holds no thresholds"):
        assess.read_thresholds(tmp_path / "t.json")
