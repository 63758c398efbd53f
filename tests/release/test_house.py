"""The picture of the house is that of the code."""

import ast
import importlib.util
from pathlib import Path

import pytest

from tests.test_import import ALLOWED

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("house", ROOT / "docs" / "figures" / "house.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_the_one_that_the_script_draws(house):
    drawn = house.PICTURE.read_text(encoding="utf-8")
    assert drawn == house.drawing(), "run python docs/figures/house.py"


def test_every_room_is_drawn(house):
    assert set(house.ROOMS) == {"recipes", *ALLOWED}


def test_arrows_are_the_laws_and_lead_down(house):
    drawn = house.arrows()
    for room, other in drawn:
        assert room == "recipes" or other in ALLOWED[room]
        assert house.ROOMS[room][1] + house.TALL < house.ROOMS[other][1]
    assert {"evaluation", "programming"} == {other for room, other in drawn if room == "callbacks"}
    assert ("chip", "variation") in drawn
    assert ("callbacks", "variation") not in drawn  # follows from others


def test_colours_tell_who_knows_lightning(house):
    found = set()
    for path in house.PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            if module.split(".")[0] == "lightning" or module == "lightning_cim._compat":
                found.add(house.room_of(path))
    assert {room for room in found if not room.startswith("_")} == set(house.ON_LIGHTNING)
