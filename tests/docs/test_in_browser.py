"""The built site and a report, looked at in a real browser at the width of a screen and of a telephone."""

import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import matplotlib.image
import numpy as np
import pytest

import lightning_cim as cim
from recipes._page import write_page
from tests.docs.browser import chromium, errors, screenshot, scroll_widths

ROOT = Path(__file__).parents[2]
WIDTHS = [1280, 420]
LOOKED_AT = ["index.html", "quickstart.html", "support.html", "methods/negative-feedback.html", "api/callbacks.html"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium or Chrome on PATH"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site: the one of ``make docs`` if it is newer than its sources, else built here."""
    built = ROOT / "build" / "docs"
    sources = [path for path in (ROOT / "docs").rglob("*") if path.is_file()]
    sources += (ROOT / "lightning_cim").rglob("*.py")
    newest = max(path.stat().st_mtime for path in sources)
    if (built / "index.html").is_file() and (built / "index.html").stat().st_mtime >= newest:
        return built
    built = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "docs", str(built)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert process.returncode == 0, process.stderr[-4000:]
    return built


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report as recipes write it: text, a wide table, a list and a figure."""
    values = {"acc": np.random.default_rng(0).beta(20, 3, 200)}
    result = cim.ChipResult(values, list(range(200)))
    header = [f"a column with a long name {number}" for number in range(12)]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_page(
        path,
        "A report",
        [
            ("p", "What was done, and what came out. " * 8),
            ("h2", "Chips"),
            ("figure", result.plot(k=10)[0]),
            ("table", (header, [[f"{row}.{column}" for column in range(12)] for row in range(6)])),
            ("pre", result.table(k=10)),
            ("list", [("seed", "0"), ("a setting with a long name", "and a long value " * 6)]),
            ("note", "200 chips."),
        ],
    )
    return path


def test_no_page_scrolls_sideways(site, report, tmp_path):
    pages = [*(site / name for name in LOOKED_AT), report]
    found = scroll_widths(pages, WIDTHS, tmp_path)
    assert not {where: wide for where, wide in found.items() if wide > where[1]}


def test_a_page_that_scrolls_sideways_is_seen(tmp_path):
    page = tmp_path / "wide.html"
    page.write_text("<!doctype html><div style='width:700px'>wide</div>")
    found = scroll_widths([page], WIDTHS, tmp_path)
    assert found[page.name, 1280] <= 1280
    assert found[page.name, 420] >= 700


@pytest.mark.parametrize("name", ["index.html", "methods/negative-feedback.html", "report"])
def test_page_shows_text_and_colours(name, site, report, tmp_path):
    picture = tmp_path / "page.png"
    log = screenshot(report if name == "report" else site / name, 1280, 1600, picture)
    assert not errors(log)
    pixels = matplotlib.image.imread(picture)[..., :3]
    assert pixels.shape[1] == 1280
    assert len(np.unique((pixels * 255).round().reshape(-1, 3), axis=0)) > 50, "blank"
    dark = (pixels.max(-1) < 0.4).mean()
    assert 0.002 < dark < 0.5, f"{dark:.1%} of the page is dark"


def test_errors_on_the_console_are_seen(tmp_path):
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><script>undefinedFunction()</script>")
    assert errors(screenshot(page, 600, 400, tmp_path / "page.png"))


def test_every_picture_of_the_site_is_there(site):
    missing = []
    for page in site.rglob("*.html"):
        for source in re.findall(r"<img[^>]*\ssrc=\"([^\"]+)\"", page.read_text(encoding="utf-8")):
            if not source.startswith(("data:", "http")) and not (page.parent / unquote(source)).is_file():
                missing.append((page.name, source))
    assert not missing


def test_every_link_within_the_site_leads_somewhere(site):
    missing = []
    for page in site.rglob("*.html"):
        for target in re.findall(r"<a[^>]*\shref=\"([^\"#?]+)[\"#?]", page.read_text(encoding="utf-8")):
            if not re.match(r"\w+:|//", target) and not (page.parent / unquote(target)).exists():
                missing.append((page.name, target))
    assert not missing
