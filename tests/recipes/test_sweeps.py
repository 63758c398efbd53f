"""Every sweep file runs: each of its points is a command line that the recipe understands."""

import sys
from pathlib import Path

import pytest

from lightning_cim.sweep import SweepFile
from lightning_cim.sweep.command import command_of
from lightning_cim.sweep.suggestions import runs_in, suggest

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "recipes" / "sweeps").glob("*.yaml"))


def test_every_recipe_has_one():
    recipes = {path.stem for path in (ROOT / "recipes").glob("*.py") if not path.stem.startswith("_")}
    assert {path.stem for path in FILES} == recipes


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_points_are_options_of_the_recipe(path, tmp_path, capsys):
    sweep = SweepFile.read(path)
    sys.path.insert(0, str(ROOT))
    module = __import__(f"recipes.{path.stem}", fromlist=["main"])
    assert runs_in(sweep, None) > 1
    for index in (0, runs_in(sweep, None) - 1) if sweep.method == "grid" else (0,):
        words = command_of(sweep.command, sweep.program, suggest(sweep, index, 0, []), tmp_path)
        assert words[:2] == [sys.executable, f"recipes/{path.stem}.py"]
        with pytest.raises(SystemExit) as stop:
            module.main([*words[2:], "--print_config"])
        assert stop.value.code in (0, None)
        assert "seed" in capsys.readouterr().out
