"""One version, and a citation that says the same as the package."""

import re
import sys
from datetime import date
from pathlib import Path

import pytest
import yaml

import lightning_cim as cim

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
REQUIRED = {"cff-version", "message", "title", "authors"}
"""Of CFF 1.2.0."""
KNOWN = REQUIRED | {"type", "abstract", "version", "date-released", "license", "keywords", "repository-code", "url"}


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_version_stands_in_the_package_alone(project, citation):
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", cim.__version__)
    assert project["dynamic"] == ["version"]
    assert "version" not in project
    assert citation["version"] == cim.__version__


def test_the_changelog_has_this_version_or_what_will_be_in_it():
    """Changes are collected under Unreleased; the latest released version is the package's."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d{2}-\d{2}))?$", text, re.MULTILINE)
    released = [(name, day) for name, day in headings if name != "Unreleased"]
    assert headings
    assert headings[0][0] == "Unreleased" or released[0][0] == cim.__version__
    assert not released or released[0][0] == cim.__version__
    assert all(date.fromisoformat(day) for _, day in released)


def test_the_citation_is_a_citation_file(citation, project):
    assert REQUIRED <= set(citation) <= KNOWN
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert citation["license"] == project["license"]
    assert citation["title"] == "lightning_cim"
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in project["authors"]]
    assert all(isinstance(word, str) for word in citation["keywords"])
    assert citation.get("date-released") is None or isinstance(citation["date-released"], date)


def test_what_is_linked_is_there():
    for name in ("CONTRIBUTING.md", "SECURITY.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)", text):
            assert target.startswith("https://") or (ROOT / target).exists(), f"{name}: {target}"


def test_the_run_on_the_oldest_versions_is_one_on_the_oldest_versions(project):
    """Each pin is the lowest version that pyproject.toml allows, and nothing that the package needs is left out."""
    extras = project["optional-dependencies"]
    floors = {}
    for line in [*project["dependencies"], *(line for extra in extras.values() for line in extra)]:
        found = re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line)
        if found:
            floors[found[1]] = found[2]
    pins = dict(
        re.findall(
            r"^([\w-]+)(?:\[\w+\])?==([\d.]+)$", (ROOT / "tests/release/minimum.txt").read_text(), flags=re.MULTILINE
        )
    )
    needed = [*project["dependencies"], *extras["cli"], *extras["plot"]]
    assert {re.match(r"[\w-]+", line)[0] for line in needed} <= set(pins)
    for name, version in pins.items():
        parts = floors[name].split(".")
        assert version.split(".") == [*parts, *["0"] * (3 - len(parts))], name
