"""Guides print what they show and save the pictures that they show."""

from pathlib import Path

import matplotlib as mpl
import matplotlib.image
import matplotlib.pyplot as plt
import pytest

from tests.helpers.guide import pictures_of, run_guide

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = sorted(path.name for path in DOCS.glob("*.md") if "```text\n" in path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", GUIDES)
def test_guide_prints_what_it_shows(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))  # of programs that a guide starts
    mpl.use("Agg")
    try:
        run = run_guide(DOCS / name)
    finally:
        plt.close("all")
    assert not run.differences()
    for picture in pictures_of((DOCS / name).read_text(encoding="utf-8")):
        saved = matplotlib.image.imread(tmp_path / Path(picture).name)
        shown = matplotlib.image.imread(DOCS / picture)
        assert saved.shape == shown.shape, f"{picture} is not the one that the guide saves"
        assert saved[..., :3].std() > 0.05, f"{picture} is blank"
