"""Schema and grammar of a space accept its designs and nothing else."""

import json

import numpy as np
import pytest

from lightning_cim.codesign.llm.parse import ReplyError, parse_reply
from lightning_cim.codesign.space import Space
from tests.codesign import gbnf, schema

COUNT = 200
CORRUPTED = 1000


@pytest.mark.parametrize("name", ["lcda", "tab", "digits"])
def test_every_random_design_is_accepted_and_read_back(name):
    space, rng = Space.preset(name), np.random.default_rng(0)
    for _ in range(COUNT):
        design = space.sample(rng)
        assert schema.accepts(space.to_json_schema(), design)
        assert gbnf.accepts(space.to_gbnf(), space.to_line(design))
        for text in (json.dumps(design), space.to_line(design)):
            parsed = parse_reply(text, space)
            assert (parsed.design, parsed.mended) == (design, ())


def corrupted(space, rng):
    """A design with one fault, as an object."""
    design = dict(space.sample(rng))
    slot = space.slots[rng.integers(len(space.slots))]
    faults = [
        lambda: design.pop(slot.name),
        lambda: design.update({f"{slot.name}_": 1}),
        lambda: design.update({slot.name: 10_007}),
        lambda: design.update({slot.name: "nothing"}),
        lambda: design.update({slot.name: None}),
        lambda: design.update({slot.name: [design[slot.name]]}),
        lambda: design.update({slot.name: True}),
        lambda: design.update({slot.name: f" {design[slot.name]}"}),
    ]
    faults[rng.integers(len(faults))]()
    return design


@pytest.mark.parametrize("name", ["lcda", "tab"])
def test_corrupted_designs_are_rejected_by_the_schema_and_never_pass_as_valid(name):
    space, rng = Space.preset(name), np.random.default_rng(1)
    for _ in range(CORRUPTED):
        design = corrupted(space, rng)
        assert not schema.accepts(space.to_json_schema(), design), design
        try:
            parsed = parse_reply(json.dumps(design), space)
        except ReplyError:
            continue
        assert parsed.mended
        space.validate(parsed.design)


@pytest.mark.parametrize("name", ["lcda", "tab"])
def test_corrupted_lines_are_rejected_by_the_grammar(name):
    """One letter is dropped, doubled, or replaced by one that is not there."""
    space, rng = Space.preset(name), np.random.default_rng(2)
    grammar = space.to_gbnf()
    valid = {space.to_line(space.sample(rng)) for _ in range(CORRUPTED)}
    rejected = 0
    for line in sorted(valid):
        place = int(rng.integers(len(line)))
        bad = [line[:place] + line[place + 1 :], line[:place] + line[place:][:1] + line[place:], line[:place] + "#"]
        broken = bad[rng.integers(3)]
        try:
            still = space.to_line(space.from_line(broken)) == broken  # 16 has lost its 1 where 6 is allowed, too
        except ValueError:
            still = False
        assert gbnf.accepts(grammar, broken) == still, broken
        rejected += not still
    assert rejected > 0.9 * len(valid)


def test_the_matcher_itself_can_say_no():
    grammar = 'root ::= "a" (digit | "b")+ "c"?\ndigit ::= [0-9]'
    assert [gbnf.accepts(grammar, text) for text in ("a1", "abb2c", "a", "ac", "a1cc", "x")] == [True] * 2 + [False] * 4
