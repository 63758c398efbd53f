import json

import pytest
import torch

from recipes.gaussian_image import race
from recipes.gaussian_image.baselines import file
from recipes.gaussian_image.contestants import CONTESTANTS, Task
from tests.recipes.gaussian_image.test_classical import photograph

pytest.importorskip("constriction")
Image = pytest.importorskip("PIL.Image")

SMALL = {"SGI": {"num_seeds": 40, "k": 3, "levels": 2}}


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "waves.png"
    Image.fromarray((photograph() * 255).round().byte().numpy()).save(path)
    return str(path)


def test_a_race_of_everything_gives_a_row_for_each_file(image, tmp_path):
    jobs = race.jobs_of([image], list(CONTESTANTS), [12.0], [6], options=SMALL)
    rows = race.race(jobs, tmp_path / "out", codecs=["JPEG"])
    fits = [row for row in rows if row["kind"] == "fit"]
    assert [row["method"] for row in fits] == list(CONTESTANTS)
    for job, row in zip(jobs, fits, strict=True):
        assert row["file_bytes"] == (tmp_path / "out" / "jobs" / f"{job.name}.bin").stat().st_size
        assert row["bpp"] == pytest.approx(8 * row["file_bytes"] / (48 * 40))
        assert row["psnr"] > 5
        assert row["fit_seconds"] > 0
        if "fp16" in row["method"]:
            assert row["bpp"] == pytest.approx(12, rel=0.1)
    curves = race.rate_curves(rows)["waves"]
    assert set(curves) == {*CONTESTANTS, "JPEG"}
    assert curves["JPEG"] == sorted(curves["JPEG"])
    assert json.loads((tmp_path / "out" / "rows.json").read_text()) == rows


def test_a_killed_race_goes_on_with_what_is_missing(image, tmp_path, monkeypatch):
    methods = ["GaussianImage fp16", "LIG fp16"]
    jobs = race.jobs_of([image], methods, [12.0], [3])
    first = race.race(jobs[:1], tmp_path, codecs=["JPEG"])
    asked = []

    run_job = race.run_job

    def counted(job, out):
        asked.append(job.method)
        return run_job(job, out)

    monkeypatch.setattr(race, "run_job", counted)
    monkeypatch.setattr(race.classical, "measure", lambda *_: pytest.fail("measured again"))
    rows = race.race(jobs, tmp_path, codecs=["JPEG"])
    assert asked == ["LIG fp16"]
    assert rows[0] == first[0]


def test_jobs_with_other_options_are_other_jobs(image):
    plain, other = (
        race.jobs_of([image], ["SGI"], [2.0], [10], options=options)[0] for options in (None, {"SGI": {"k": 3}})
    )
    assert plain.name != other.name


def test_processes_make_the_same_files(image, tmp_path):
    jobs = race.jobs_of([image], ["GaussianImage"], [8.0], [3, 4])
    rows = [race.race(jobs, tmp_path / str(count), count, codecs=["JPEG"]) for count in (1, 2)]
    for job in jobs:
        files = [(tmp_path / str(count) / "jobs" / f"{job.name}.bin").read_bytes() for count in (1, 2)]
        assert files[0] == files[1]
    assert [row["psnr"] for row in rows[0]] == [row["psnr"] for row in rows[1]]


def test_published_bits_are_the_authors():
    task = Task(photograph(), bpp=8.0, steps=2)
    config = file.decode(CONTESTANTS["GaussianImage, published bits"](task).data).config
    assert (config.xy_bits, config.shape_bits, config.stages, config.entries) == (16, 6, 2, 8)


def rows_of(method, steps, *points):
    return [
        {"kind": "fit", "image": "a", "method": method, "steps": steps, "target_bpp": 1.0, "bpp": bpp, "psnr": db,
         "fit_seconds": steps / 10}
        for bpp, db in points
    ]  # fmt: skip


def test_curves_take_the_longest_fits_unless_told():
    rows = rows_of("SGI", 10, (2.0, 30.0), (1.0, 28.0)) + rows_of("SGI", 20, (1.0, 29.0))
    rows += [{"kind": "skipped", "image": "a", "method": "AVIF", "note": "missing"}]
    assert race.rate_curves(rows) == {"a": {"SGI": [(1.0, 29.0)]}}
    assert race.rate_curves(rows, steps=10) == {"a": {"SGI": [(1.0, 28.0), (2.0, 30.0)]}}
    assert race.time_curves(rows[1:], 1.0) == {"a": {"SGI": [(1.0, 28.0), (2.0, 29.0)]}}


def test_gap_against_a_fine_sum():
    one = [(0.5, 25.0), (1.0, 28.0), (3.0, 31.0)]
    other = [(0.7, 25.5), (2.0, 29.0), (5.0, 33.0)]

    def at(curve, x):
        logs = torch.tensor([p[0] for p in curve]).log()
        i = min(max(int((logs < x).sum()) - 1, 0), len(curve) - 2)
        share = (x - logs[i]) / (logs[i + 1] - logs[i])
        return curve[i][1] + share * (curve[i + 1][1] - curve[i][1])

    grid = torch.linspace(float(torch.tensor(0.7).log()), float(torch.tensor(3.0).log()), 4001)
    slow = torch.stack([torch.as_tensor(at(one, x) - at(other, x)) for x in grid]).mean()
    assert race.mean_gap(one, other) == pytest.approx(float(slow), abs=1e-3)
    assert race.mean_gap(other, one) == pytest.approx(-float(slow), abs=1e-3)
    assert race.mean_gap(one, [(4.0, 30.0), (5.0, 31.0)]) is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"methods": ["BPG"]}, "BPG"),
        ({"methods": []}, "methods"),
        ({"bpps": [0.0]}, "positive"),
        ({"steps": [5, 5]}, "steps"),
        ({"names": ["x/a.png", "y/a.png"]}, "images"),
        ({"options": {"BPG": {}}}, "BPG"),
    ],
)
def test_races_that_cannot_be(bad, message):
    with pytest.raises(ValueError, match=message):
        race.jobs_of(**{"names": ["astronaut"], "methods": ["SGI"], "bpps": [1.0], "steps": [5], **bad})


def test_a_missing_image_ends_the_race_before_it_begins(tmp_path):
    jobs = race.jobs_of(["absent.png"], ["SGI"], [1.0], [5])
    with pytest.raises(ValueError, match="absent"):
        race.race(jobs, tmp_path)
