import pytest
import torch

from recipes.cryo_em import chips
from recipes.cryo_em.chips import METRICS, PARTS, Point, StudyOptions
from recipes.cryo_em.model import CryoFormer
from recipes.cryo_em.module import CROSSBARS
from tests.recipes.cryo_em.fake import SIZE, hinge

pytestmark = pytest.mark.filterwarnings("ignore:.*chips are few.*")
FEW = StudyOptions(sigmas=(0.3,), chips=3, images=40, states=3, nearest=5)


def model(seed=0):
    torch.manual_seed(seed)
    made = CryoFormer(SIZE, 6.0, encoder_width=8, encoder_depth=1, blocks=1, channels=8)
    made.base.data.normal_()
    return made.eval()


@pytest.fixture(scope="module")
def particles():
    return hinge(count=60)


@pytest.fixture(scope="module")
def results(particles, tmp_path_factory):
    return chips.study({"plain": model(), "other": model(1)}, particles, FEW, tmp_path_factory.mktemp("chips"))


def test_every_part_is_measured_with_and_without_noise(results):
    assert set(results) == {Point(net, part, s) for net in ("plain", "other") for part in PARTS for s in (0.0, 0.3)}
    for point, result in results.items():
        assert len(result.of("motion")) == (3 if point.sigma else 1)
        assert {name for name in METRICS if len(result.of(name))} == set(METRICS)


def test_without_noise_all_parts_are_alike_and_with_it_they_are_not(results):
    clean = {results[Point("plain", part, 0.0)].mean("motion") for part in PARTS}
    noisy = {results[Point("plain", part, 0.3)].mean("motion") for part in PARTS}
    assert len(clean) == 1
    assert len(noisy) == len(PARTS)


def test_noise_in_the_decoder_leaves_the_order_of_latents(results):
    clean = results[Point("plain", "everything", 0.0)].mean("spearman")
    for part in ("decoder", "feature table"):
        assert results[Point("plain", part, 0.3)].of("spearman").tolist() == pytest.approx([clean] * 3)
    assert results[Point("plain", "encoder", 0.3)].of("spearman").tolist() != pytest.approx([clean] * 3)


def test_the_parts_make_up_everything():
    target = chips.OnChip(model(), torch.zeros(1), None, 1)
    names = {part: {found.name for found in mapping.resolve(target)} for part, mapping in PARTS.items()}
    assert names["everything"] == {found.name for found in CROSSBARS.resolve(target)}
    assert names["everything"] == names["encoder"] | names["decoder"] | names["feature table"]
    assert len(names["everything"]) == sum(len(names[part]) for part in PARTS if part != "everything")
    assert not any("norm" in name or "base" in name or "poses" in name for name in names["everything"])


def test_a_killed_study_goes_on_with_the_chips_it_has(particles, tmp_path, monkeypatch):
    some = StudyOptions(sigmas=(0.3,), chips=2, images=40, states=3, nearest=5, parts=("encoder",))
    first = chips.study({"plain": model()}, particles, some, tmp_path)
    monkeypatch.setattr(chips.OnChip, "test_step", lambda *_: pytest.fail("measured again"))
    again = chips.study({"plain": model()}, particles, some, tmp_path)
    for point, result in first.items():
        assert again[point].of("motion").tolist() == pytest.approx(result.of("motion").tolist())


def test_gains_are_paired(results):
    rows = chips.gains(results, "plain")
    row = next(row for row in rows if (row["part"], row["sigma"]) == ("encoder", 0.3))
    difference = results[Point("other", "encoder", 0.3)].of("motion") - results[Point("plain", "encoder", 0.3)].of(
        "motion"
    )
    assert row["gain"] == pytest.approx(difference.mean())
    assert row["se"] == pytest.approx(difference.std(ddof=1) / 3**0.5)
    header, body = chips.gain_table(rows)
    assert len(body) == len(rows) == 8
    assert all(len(line) == len(header) for line in body)


@pytest.mark.parametrize(
    ("clean", "noisy", "se", "pays"), [(-0.01, 0.1, 0.04, True), (-0.01, 0.1, 0.06, False), (-0.03, 0.1, 0.01, False)]
)
def test_training_under_variation_pays_where_it_gains_and_loses_little(clean, noisy, se, pays):
    of = {"net": "noisy", "part": "everything"}
    rows = [{**of, "sigma": 0.0, "gain": clean, "se": 0.0}, {**of, "sigma": 0.2, "gain": noisy, "se": se}]
    assert chips.judged(rows) == {"noisy": pays}


def test_tables_have_a_line_a_net_and_sigma(results):
    rows = chips.rows_of(results)
    header, body = chips.chip_table(rows, "encoder")
    assert [line[:3] for line in body] == [
        ["plain", "0", "1"],
        ["plain", "0.3", "3"],
        ["other", "0", "1"],
        ["other", "0.3", "3"],
    ]
    assert all(len(line) == len(header) for line in body)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"chips": 0}, "chips=0"), ({"sigmas": (0.0,)}, "above 0"), ({"parts": ("pose",)}, "unknown parts")],
)
def test_options_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        StudyOptions(**settings)
