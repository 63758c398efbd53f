"""Every public name is on a page of the API reference, and so are all public rooms."""

import importlib
import re
from pathlib import Path

import pytest

import lightning_cim

API = Path(__file__).parents[2] / "docs" / "api"
ROOMS = ["variation", "chip", "evaluation", "programming", "callbacks", "strategies", "cli", "codesign", "sweep"]


def documented():
    """Names by the page that documents them: automodule takes a module's ``__all__``."""
    found = {}
    for page in sorted(API.glob("*.md")):
        for module in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
            for name in _members(importlib.import_module(module)):
                found.setdefault(name, []).append(page.name)
    return found


def _members(module):
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
    return [name for name in own if not name.startswith("_")]


def test_every_public_name_is_documented_on_one_page():
    found = documented()
    assert not sorted(set(lightning_cim.__all__) - set(found))
    assert not [name for name, pages in found.items() if len(set(pages)) > 1]


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_a_page_in_the_index(room):
    module = importlib.import_module(f"lightning_cim.{room}")
    found = documented()
    assert not sorted(set(_members(module)) - set(found))
    assert f"api/{room}" in (API.parent / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", lightning_cim.__all__)
def test_every_public_name_says_what_it_is(name):
    docs = getattr(lightning_cim, name).__doc__ or ""
    assert len(docs.strip().splitlines()[0]) > 20, docs
