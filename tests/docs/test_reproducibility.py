"""The page of claims names every paper, says for each claim what came of it, and how to see it."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAPERS = ["NeFT", "TRICE", "SWIM", "TSB", "worst case", "LCDA", "ECG", "SGI", "CryoFormer", "IQA"]
WORDS = ("shown", "partly", "not shown", "open")


def rows():
    text = (DOCS / "reproducibility.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split(" |")] for line in lines[1:]]
    assert all(len(row) == 5 for row in found)
    return found


@pytest.mark.parametrize("paper", PAPERS)
def test_every_paper_is_there(paper):
    assert [row for row in rows() if row[0].startswith(paper)]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1][:30]}")
def test_claim_has_a_verdict_a_figure_and_a_command(row):
    _, claim, verdict, figure, command = row
    assert claim
    assert verdict.startswith(WORDS)
    assert figure
    if verdict != "open":
        assert command == "the same" or re.search(r"`(make|python|pytest) ", command), command


def test_linked_pictures_and_pages_are_there():
    text = (DOCS / "reproducibility.md").read_text(encoding="utf-8")
    assert not [target for target in re.findall(r"\]\(([^)#]+)\)", text) if not (DOCS / target).is_file()]


def test_commands_name_files_and_targets_that_exist():
    text = "\n".join(row[4] for row in rows())
    root = DOCS.parent
    makefile = (root / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"`make ([\w-]+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for path in re.findall(r"`(?:python|pytest -s) (\S+\.py)", text):
        assert (root / path).is_file(), path
