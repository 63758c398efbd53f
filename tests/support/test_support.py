"""The committed support matrix is what the tests find."""

import difflib
import logging
from pathlib import Path

import pytest

from tests.support.cells import FAILS, REFUSED, Cell, tried
from tests.support.page import page

PAGE = Path(__file__).parents[2] / "docs" / "support.md"


@pytest.mark.slow
def test_committed_page_is_what_the_tests_find():
    logging.disable(logging.WARNING)
    try:
        found = page()
    finally:
        logging.disable(logging.NOTSET)
    shown = PAGE.read_text(encoding="utf-8")
    assert found == shown, "\n".join(difflib.unified_diff(shown.splitlines(), found.splitlines(), lineterm="", n=0))


def test_cells_tell_refusals_from_failures():
    import lightning_cim as cim

    def fault():
        raise ValueError("of the user's own")

    def wrong():
        raise AssertionError("the weights did not deviate")

    assert tried(lambda: None) == Cell("yes")
    assert tried(lambda: "digital") == Cell("digital")
    refused = tried(lambda: cim.Mapping(targets="linear"))
    assert refused.word == REFUSED
    assert refused.message.startswith("Mapping: targets must be a list of names")
    assert tried(fault) == Cell(FAILS, "ValueError")
    with pytest.raises(AssertionError, match="did not deviate"):
        tried(wrong)
