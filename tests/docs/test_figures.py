"""Figures of the method pages: each has a script that still draws it, and is small."""

import re
import runpy
import sys
from pathlib import Path

import matplotlib.image
import pytest

DOCS = Path(__file__).parents[2] / "docs"
SCRIPTS = sorted(path for path in (DOCS / "figures").glob("*.py") if "from _digits import" in path.read_text("utf-8"))
PAGES = sorted((DOCS / "methods").glob("*.md"))
LIMIT = 60_000


def picture_of(script):
    return DOCS / "images" / f"method-{script.stem.replace('_', '-')}.png"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_shows_a_figure_and_its_command(page):
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"`python docs/figures/(\w+)\.py`", text)
    assert commands
    for name in commands:
        assert f"../images/{picture_of(DOCS / 'figures' / f'{name}.py').name}" in text
        assert (DOCS / "figures" / f"{name}.py").is_file()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_committed_picture_is_small_and_not_blank(script):
    picture = picture_of(script)
    assert picture.stat().st_size <= LIMIT
    assert matplotlib.image.imread(picture)[..., :3].std() > 0.05


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_draws(script, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [script.name, "--fast", str(path)])
    monkeypatch.setattr("logging.disable", lambda level=50: None)  # of this process, which goes on
    runpy.run_path(str(script), run_name="__main__")
    assert matplotlib.image.imread(path)[..., :3].std() > 0.02
