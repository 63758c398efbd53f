"""Replies of every kind: what is read, what is repaired, what is refused."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_cim.codesign.llm.parse import LONGEST, ReplyError, parse_reply
from tests.codesign.spaces import SMALL

DESIGN = {"channels": 64, "kernel": 3, "adc_bits": 5, "device": "fefet", "tech": 22}
TEXT = json.dumps(DESIGN)


@pytest.mark.parametrize(
    "reply",
    [
        TEXT,
        f"```json\n{TEXT}\n```",
        f"```\n{json.dumps(DESIGN, indent=2)}\n```",
        f"I suggest the following: {TEXT} because kernels cost rows.",
        f"<think>{{'kernel': 1}} or {{\"kernel\": 5}}? {TEXT.replace('64', '16')}</think>\n{TEXT}",
        f'{{"design": {TEXT}}}',
        f"With {{curly}} braces {{}} in prose. {TEXT}",
        f"An open brace {{ and then {TEXT}",
        f"{TEXT} or else {TEXT.replace('64', '16')}",
        "channels=64, kernel=3, adc_bits=5, device=fefet, tech=22",
        "Sure!\nchannels = 64, kernel = 3, adc_bits = 5, device = fefet, tech = 22\nGood luck.",
        TEXT.replace("64", "64.0"),
    ],
)
def test_designs_are_found_wherever_models_put_them(reply):
    parsed = parse_reply(reply, SMALL)
    assert parsed.design == DESIGN
    assert parsed.mended == ()


@pytest.mark.parametrize(
    ("change", "repaired"),
    [
        ({"adc_bits": 9}, {"adc_bits": 7}),
        ({"channels": 60.5}, {"channels": 64}),
        ({"kernel": "3"}, {"kernel": 3}),
        ({"adc_bits": "6 bit"}, {"adc_bits": 6}),
        ({"device": "FeFET"}, {"device": "fefet"}),
        ({"colour": "red"}, {}),
    ],
)
def test_values_out_of_range_are_repaired_and_reported(change, repaired):
    parsed = parse_reply(json.dumps({**DESIGN, **change}), SMALL)
    assert parsed.design == {**DESIGN, **repaired}
    assert len(parsed.mended) == 1
    assert next(iter(change)) in parsed.mended[0]


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ("", "no JSON object"),
        ("I cannot help with that.", "no JSON object"),
        (TEXT[:-1], "no JSON object"),
        ("[1, 2, 3]", "no JSON object"),
        (TEXT.replace(":", "->"), "not JSON"),
        ("{__import__('os').system('true')}", "not JSON"),
        ('{"channels": 64}', "the design lacks kernel, adc_bits, device, tech"),
        ("channels=64, kernel=3", "the design lacks adc_bits, device, tech"),
        ("{}", "lacks channels"),
        (TEXT.replace("64", "NaN"), "NaN, which is no number"),
        (TEXT.replace("64", "-Infinity"), "Infinity, which is no number"),
        (TEXT.replace("64", "1e999"), "infinite number, which is no number"),
        (TEXT.replace("64", "9" * 5000), "absurd size"),
        (TEXT.replace("64", "1e30"), "absurd size"),
        (TEXT.replace("64", "true"), "channels must be one of its allowed values, not true"),
        (TEXT.replace("64", "null"), "not null"),
        (TEXT.replace("64", "[64]"), "not a list"),
        (TEXT.replace("64", '{"value": 64}'), "not an object"),
        (TEXT[:-1] + ', "kernel": 5}', "names a slot twice"),
        ("channels=64, kernel=3, kernel=5, adc_bits=5, device=fefet, tech=22", "names a slot twice"),
        ('{"a":' * 50_00 + "1" + "}" * 50_00, "nested deeper"),
        (TEXT.replace("64", "[" * 30_000 + "]" * 30_000), "nested deeper"),
        (TEXT[:-1] + "".join(f', "k{n}": 1' for n in range(500)) + "}", "505 entries instead of 5"),
        (" " * LONGEST + TEXT, "longer than 65536 characters"),
        ("{" * 60_000, "nested deeper"),
        ('{"' * 30_000, "no JSON object|nested deeper"),
        (TEXT.replace("}", "\ud800}"), "not JSON"),
    ],
)
def test_what_is_no_design_is_refused_in_one_short_line(reply, message):
    begun = time.perf_counter()
    with pytest.raises(ReplyError, match=message) as caught:
        parse_reply(reply, SMALL)
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)
    assert time.perf_counter() - begun < 1


@given(st.text() | st.text(alphabet='{}[]":,\\ ktn0', max_size=200))
@settings(max_examples=150, deadline=None)
def test_no_text_breaks_the_parser(text):
    try:
        parsed = parse_reply(text, SMALL)
    except ReplyError:
        return
    SMALL.validate(parsed.design)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.fixed_dictionaries({name: JSON for name in SMALL.names}))
@settings(max_examples=150, deadline=None)
def test_whatever_stands_in_the_slots_a_design_of_the_space_or_a_refusal_comes_out(found):
    try:
        parsed = parse_reply(json.dumps(found), SMALL)
    except ReplyError:
        return
    SMALL.validate(parsed.design)
    assert (parsed.mended == ()) == (parsed.design == found)
