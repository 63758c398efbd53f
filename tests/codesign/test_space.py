"""Design spaces: codes, repairs, schemas, grammars and files."""

import itertools
import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.codesign.space import PRESETS, Slot, Space

TWO = Space((Slot("kernel", (3, 5, 7)), Slot("device", ("rram", "rram-hrs")), Slot("lr", (0.1, 1))), "small")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def matches(grammar, text):
    """A slow matcher of exactly the grammars that ``to_gbnf`` writes: by listing every text of each rule."""
    rules = dict(line.split(" ::= ") for line in grammar.splitlines())
    pieces = []
    for part in re.findall(r'"[^"]*"|[a-z]+-\d+', rules["root"]):
        pieces.append([json.loads(part)] if part[0] == '"' else [json.loads(word) for word in rules[part].split(" | ")])
    ends = {0}
    for words in pieces:
        ends = {at + len(word) for at in ends for word in words if text.startswith(word, at)}
    return len(text) in ends


def accepts(schema, value):
    """A slow validator of exactly the schemas that ``to_json_schema`` writes."""
    if not isinstance(value, dict) or set(value) != set(schema["required"]):
        return False
    return all(
        not isinstance(value[name], bool) and value[name] in about["enum"]
        for name, about in schema["properties"].items()
    )


@pytest.mark.parametrize("name", PRESETS)
def test_presets_round_trip_codes_keys_lines_schema_and_grammar(name):
    space = Space.preset(name)
    rng = np.random.default_rng(0)
    schema, grammar = space.to_json_schema(), space.to_gbnf()
    keys = set()
    for _ in range(100):
        design = space.sample(rng)
        assert space.decode(space.encode(design)) == design
        assert space.from_line(space.to_line(design)) == design
        assert space.key(dict(reversed(design.items()))) == space.key(design)
        assert accepts(schema, json.loads(json.dumps(design)))
        assert matches(grammar, space.to_line(design))
        assert space.repair(design) == (design, [])
        keys.add(space.key(design))
    assert len(keys) > 90


def test_tab_has_the_designs_that_the_specification_counts():
    space = Space.preset("tab")
    assert space.cardinality == 7**3 * 3**3 * 3 * 5 * 3 * 3 == 1_250_235
    assert Space.preset("digits").cardinality == 98_415


def test_schema_and_grammar_reject_corrupted_designs():
    space = Space.preset("tab")
    rng = np.random.default_rng(1)
    schema, grammar = space.to_json_schema(), space.to_gbnf()
    for _ in range(1000):
        design = space.sample(rng)
        slot = str(rng.choice(space.names))
        broken = dict(design)
        fault = rng.integers(4)
        if fault == 0:
            del broken[slot]
        elif fault == 1:
            broken[slot] = -1
        elif fault == 2:
            broken[slot] = f"{broken[slot]} "
        else:
            broken["extra"] = 1
        assert not accepts(schema, broken)
        assert not matches(grammar, ", ".join(f"{name}={value}" for name, value in broken.items()))
        with pytest.raises(ValueError, match=r"slot|lacks"):
            space.validate(broken)


def test_designs_come_in_the_order_of_codes_and_once_each():
    listed = list(TWO.designs())
    codes = [TWO.encode(design) for design in listed]
    assert codes == list(itertools.product(range(3), range(2), range(2)))
    assert len({TWO.key(design) for design in listed}) == TWO.cardinality == 12


def test_neighbours_differ_in_exactly_one_slot():
    design = {"kernel": 5, "device": "rram", "lr": 1}
    found = TWO.neighbours(design)
    assert len(found) == 2 + 1 + 1
    assert all(sum(other[name] != design[name] for name in TWO.names) == 1 for other in found)


def test_samples_are_uniform():
    rng = np.random.default_rng(2)
    codes = np.array([TWO.encode(TWO.sample(rng)) for _ in range(3000)])
    assert np.bincount(codes[:, 0]) / 3000 == pytest.approx([1 / 3] * 3, abs=0.04)


def test_equal_numbers_are_one_design_but_booleans_are_none():
    assert TWO.key({"kernel": 3.0, "device": "rram", "lr": 1.0}) == TWO.key({"kernel": 3, "device": "rram", "lr": 1})
    with pytest.raises(ValueError, match=r"slot 'lr' has no value True: allowed are 0.1, 1"):
        TWO.validate({"kernel": 3, "device": "rram", "lr": True})


@pytest.mark.parametrize(
    ("slot", "given_value", "nearest"),
    [
        ("kernel", 4, 3),
        ("kernel", 99, 7),
        ("kernel", "5x5", 5),
        ("kernel", math.inf, 7),
        ("kernel", -math.inf, 3),
        ("kernel", math.nan, 5),
        ("kernel", 10**400, 7),
        ("kernel", None, 5),
        ("device", "RRAM_HRS", "rram-hrs"),
        ("device", "flash", "rram"),
        ("lr", "0.2", 0.1),
    ],
)
def test_repair_takes_the_nearest_value_and_says_so(slot, given_value, nearest):
    good = {"kernel": 5, "device": "rram", "lr": 1}
    repaired, mended = TWO.repair({**good, slot: given_value})
    assert repaired == {**good, slot: nearest}
    assert len(mended) == 1
    assert mended[0].startswith(f"{slot}: ")


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["kernel", "device", "lr", "x"]), JSON))
def test_whatever_is_repaired_is_a_design_or_a_clear_error(design):
    try:
        repaired, mended = TWO.repair(design)
    except ValueError as error:
        assert "nothing to repair" in str(error)  # noqa: PT017 hypothesis has both outcomes
        assert not set(design) & set(TWO.names)
        return
    TWO.validate(repaired)
    try:
        TWO.validate(design)
    except ValueError:
        assert mended
    else:
        assert not mended
        assert TWO.encode(repaired) == TWO.encode(design)


def test_anonymised_says_nothing_and_maps_back():
    hidden = TWO.anonymised()
    text = hidden.describe() + json.dumps(hidden.to_json_schema()) + hidden.to_gbnf()
    assert not re.search("kernel|device|rram|lr|small", text)
    for design in TWO.designs():
        assert TWO.decode(hidden.encode(hidden.decode(TWO.encode(design)))) == design


def test_describe_names_every_slot_and_value():
    text = Space.preset("lcda").describe()
    assert all(f"\n{name} " in text for name in Space.preset("lcda").names)
    assert "rram, rram-hrs, fefet" in text


@pytest.mark.parametrize("codes", [(0, 0), (3, 0, 0), (-1, 0, 0)])
def test_codes_out_of_range_are_refused(codes):
    with pytest.raises(ValueError, match="codes"):
        TWO.decode(codes)


@pytest.mark.parametrize("line", ["", "kernel=3", "kernel=3, kernel=3, lr=1", "kernel=3, device=rram, lr=2", "a=1"])
def test_lines_that_are_no_design_are_refused(line):
    with pytest.raises(ValueError, match=r"slot"):
        TWO.from_line(line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a b", (1,)), "name is a word"),
        (("a", ()), "no values"),
        (("a", (1, "x")), "mixes"),
        (("a", (1, 1.0)), "twice"),
        (("a", (True, 2)), "number or a word"),
        (("a", (math.nan,)), "finite"),
        (("a", ("x y",)), "word starts with a letter"),
        (("a", ('"x',)), "word starts with a letter"),
    ],
)
def test_slots_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Slot(*arguments)


def test_spaces_without_slots_or_with_two_alike_are_refused():
    with pytest.raises(ValueError, match="no slots"):
        Space(())
    with pytest.raises(ValueError, match="several slots named a"):
        Space((Slot("a", (1,)), Slot("a", (2,))))
    with pytest.raises(ValueError, match="no design space 'cifar': presets are lcda, tab, digits"):
        Space.preset("cifar")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("- a", "line 1: a design space has keys"),
        ("name: x", "line 1: a design space has a list of slots"),
        ("slots: 3", "line 1: slots is a list"),
        ("slots: []", "line 1: there are no slots"),
        ("slots:\n  - {name: a}", "line 2: this slot has no values"),
        ("slots:\n  - {values: [1]}", "line 2: this slot has no name"),
        ("slots:\n  - {name: a, values: 3}", "line 2: values is a list"),
        ("slots:\n  - {name: a, values: [1, 1]}", "line 2: slot 'a' lists a value twice"),
        ("slots:\n  - {name: a, values: [[1]]}", "line 2"),
        ("slots:\n  - {name: a, values: [1], size: 2}", "line 2: a slot with an unknown key 'size'"),
        ("slots:\n  - {name: a, values: [1]}\n  - {name: a, values: [2]}", "line 3: there is a slot 'a' above"),
        ("slots:\n  - {name: a, values: [1", "no YAML"),
        ("slots: !!python/object:os.system [x]", "line 1"),
        ("slots:\n  - {name: a, values: !!python/name:os.system [1]}", "line 2"),
        ("slots:\n  - {name: !!int x, values: [1]}", "line 2"),
    ],
)
def test_files_at_fault_are_named_with_the_line(tmp_path, text, message):
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        Space.from_yaml(path)
    assert message in str(caught.value)


def test_a_file_is_read_and_a_missing_one_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("slots:\n  - {name: kernel, values: [3, 5], unit: pixel, about: side}\n")
    assert Space.from_yaml(path) == Space((Slot("kernel", (3, 5), "pixel", "side"),), "mine")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Space.from_yaml(tmp_path / "nowhere.yaml")


def test_text_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        Space.from_yaml(path)
