import math

import numpy as np
import pytest
from matplotlib.figure import Figure

import lightning_cim as cim
from recipes.gaussian_image import report
from recipes.gaussian_image.chips import METRIC, Point

FOUND = {
    "image": "<b>photo</b>.png",
    "height": 10,
    "width": 20,
    "psnr": 27.123,
    "ssim": 0.81234,
    "ms_ssim": None,
    "note": "no MS-SSIM below 161 pixels a side",
    "file_bytes": 1000,
    "bpp": 40.0,
    "sizes": {"networks": 250, "blocks": 750},
    "cpu_seconds": {"encode": 0.25, "decode": 0.5, "draw": 0.125},
    "fit_seconds": None,
    "skipped": {"AVIF": "this Pillow was built without avif"},
    "command": "python recipes/sgi.py fit",
    "config": {"seed": 0},
}


def sample_of(results):
    return {point: cim.ChipResult({METRIC: np.array(values)}, [*range(len(values))]) for point, values in results}


def test_a_figure_that_could_not_be_computed_is_replaced_by_the_reason():
    body = dict(report.fit_table(FOUND)[1])
    assert body["PSNR"] == "27.12 dB"
    assert body["MS-SSIM"] == FOUND["note"]
    assert body["encode"] == "250 ms CPU"
    assert "fit" not in body
    assert dict(report.fit_table({**FOUND, "fit_seconds": 61.4})[1])["fit"] == "61 s"


def test_sizes_add_up():
    assert report.size_table(FOUND["sizes"])[1] == [
        ["networks", "250", "25.0"],
        ["blocks", "750", "75.0"],
        ["total", "1000", "100.0"],
    ]


def test_other_codecs_are_interpolated_at_equal_bytes():
    curves = {"JPEG": [(4.0, 34.0), (1.0, 30.0)], "WebP": [(0.1, 20.0), (1.9, 35.0)]}
    body = report.equal_bytes_table(2.0, 31.0, curves)[1]
    assert body[0] == ["JPEG", "32.00", "-1.00"]
    assert body[1][1:] == ["its files have 0.10 to 1.90 bits per pixel", ""]


def test_the_page_of_a_fit_is_whole_and_escaped(tmp_path):
    path = tmp_path / "report.html"
    table = report.equal_bytes_table(2.0, 31.0, {"JPEG": [(1.0, 30.0), (4.0, 34.0)]})
    report.write_fit(path, FOUND, Figure(), Figure(), table)
    page = path.read_text()
    assert page.count("<img") == 2
    assert "src='http" not in page
    assert "<b>photo" not in page
    assert "&lt;b&gt;photo&lt;/b&gt;.png, 10 x 20 pixels" in page
    assert "AVIF is missing: this Pillow was built without avif" in page
    report.write_fit(path, FOUND, Figure(), None, None)
    assert path.read_text().count("<img") == 1
    assert "Beside other codecs" not in path.read_text()


def test_chip_table_goes_part_by_part_and_sigma_by_sigma():
    results = sample_of(
        [
            (Point("plain", "both networks", 0.1), [21.0, 20.0, 25.0]),
            (Point("plain", "both networks", 0.0), [28.0]),
            (Point("noisy", "both networks", 0.1), [24.0, 24.5, 25.0]),
            (Point("plain", "attributes", 0.1), [27.0, 27.0, 27.0]),
        ]
    )
    header, body = report.chip_table(results, ["both networks"])
    assert [line[1:3] for line in body] == [["0", "plain"], ["0.1", "plain"], ["0.1", "noisy"]]
    row = dict(zip(header, body[1], strict=True))
    assert row["mean ± std"] == "22.00 ± 2.65"
    assert row["50 %"] == "21.00"
    assert row["worst chip"] == "20.00 (chip 1)"
    assert dict(zip(header, body[0], strict=True))["worst chip"] == "-"


def test_gains_are_paired_chip_by_chip():
    results = sample_of(
        [
            (Point("plain", "both networks", 0.1), [21.0, 20.0, 25.0]),
            (Point("noisy", "both networks", 0.1), [24.0, 24.5, 24.0]),
        ]
    )
    gain = np.mean([3.0, 4.5, -1.0])
    assert report.gain_table(results, "plain")[1] == [["both networks", "0.1", "noisy", f"{gain:+.2f}", "67"]]


def test_gaps_of_curves_have_our_sign():
    images = {
        "a": {"SGI": [(1.0, 30.0), (2.0, 32.0)], "JPEG": [(1.0, 33.0), (2.0, 35.0)], "AVIF": [(9.0, 40.0)]},
        "b": {"SGI": [(1.0, 30.0)]},
    }
    header, body = report.gap_table(images, "SGI")
    assert header == ["image", "JPEG", "AVIF"]
    assert body == [["a", "-3.00", "nothing in common"], ["b", "nothing in common", "nothing in common"]]


@pytest.mark.parametrize("kind", ["fit", "classical"])
def test_race_table_has_every_file_but_not_what_was_skipped(kind):
    row = {"kind": kind, "image": "a", "method": "M", "file_bytes": 9, "bpp": 0.5, "psnr": 30.0, "ssim": 0.5}
    row |= {"ms_ssim": None, "encode_seconds": 0.5, "decode_seconds": 0.25}
    if kind == "fit":
        row |= {"steps": 10, "seed": 3, "gaussians": 77, "fit_seconds": 12.4}
    header, body = report.race_table([row, {"kind": "skipped", "image": "a", "method": "AVIF", "note": "no"}])
    assert len(body) == 1
    found = dict(zip(header, body[0], strict=True))
    assert found["MS-SSIM"] == "-"
    assert found["encode, CPU ms"] == "500"
    assert found["Gaussians"] == ("77" if kind == "fit" else "-")
    assert not math.isnan(float(found["PSNR, dB"]))
