"""Against a local endpoint: what is sent, and what is made of every kind of answer."""

import gzip
import json
import socket
import sys
import time

import pytest

from lightning_cim.codesign.llm.backend import BackendError, make_backend
from tests.codesign.server import chat, dripping, endless, raw, serving, slowly, status
from tests.codesign.spaces import SMALL

KEY = "sk-secret-0123456789"
MESSAGES = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "propose"}]


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    pytest.importorskip("openai")
    for name in ("OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ask(endpoint, **options):
    backend = make_backend("openai", SMALL, model="fake", base_url=endpoint.url, **{"max_retries": 0, **options})
    return backend.complete(MESSAGES, SMALL.to_json_schema(), temperature=0.5, seed=7)


def failure(*replies, match, **options):
    """The error that these replies end in, and the endpoint."""
    with serving(*replies) as endpoint, pytest.raises(BackendError, match=match) as caught:
        ask(endpoint, **options)
    return caught.value, endpoint


def test_the_request_has_the_shape_of_structured_outputs():
    with serving(chat("hello", usage=(21, 8))) as endpoint:
        reply = ask(endpoint, max_tokens=99)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("hello", 21, 8)
    (request,) = endpoint.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["headers"]["authorization"] == f"Bearer {KEY}"
    assert request["headers"]["accept-encoding"] == "identity"
    assert request["body"] == {
        "model": "fake",
        "messages": MESSAGES,
        "temperature": 0.5,
        "seed": 7,
        "max_tokens": 99,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "design", "strict": True, "schema": SMALL.to_json_schema()},
        },
    }
    schema = request["body"]["response_format"]["json_schema"]["schema"]
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(SMALL.names) == list(schema["properties"])
    assert schema["properties"]["adc_bits"]["enum"] == [4, 5, 6, 7]


def test_an_endpoint_without_schemas_is_asked_for_less_and_remembered():
    refusal = status(400, "response_format is not supported")
    with serving(refusal, status(422, "neither is json_object"), chat("{}")) as endpoint:
        backend = make_backend("openai", SMALL, model="fake", base_url=endpoint.url, max_retries=0)
        for _ in range(2):
            assert backend.complete(MESSAGES, SMALL.to_json_schema(), temperature=0.5, seed=7).text == "{}"
    formats = [body.get("response_format", {"type": "none"})["type"] for body in endpoint.bodies()]
    assert formats == ["json_schema", "json_object", "none", "none"]


def test_parameters_that_a_model_refuses_are_left_out():
    with serving(
        status(400, "use 'max_completion_tokens' instead of max_tokens"),
        status(400, "temperature must be 1"),
        status(400, "unknown parameter seed"),
        chat("{}"),
    ) as endpoint:
        assert ask(endpoint, max_tokens=50).text == "{}"
    last = endpoint.bodies()[-1]
    assert last["max_completion_tokens"] == 50
    assert not {"temperature", "seed", "max_tokens"} & set(last)
    assert last["response_format"]["type"] == "json_schema"


def test_a_request_that_is_refused_in_every_form_ends():
    error, endpoint = failure(
        status(400, "temperature seed max_tokens max_completion_tokens"), match=r"refused the request \(400\)"
    )
    assert error.permanent
    assert len(endpoint.requests) <= 8


def test_rate_limits_are_waited_for_as_long_as_the_server_says():
    with serving(status(429, "slow down", [("Retry-After", "1")]), chat("{}")) as endpoint:
        assert ask(endpoint, max_retries=2).text == "{}"
    first, second = (request["time"] for request in endpoint.requests)
    assert 0.95 < second - first < 5


def test_rate_limits_that_last_are_one_clear_line():
    error, endpoint = failure(
        status(429, "quota", [("retry-after-ms", "1")]),
        match=r"still over its rate limit or quota after all retries \(429\)",
        max_retries=2,
    )
    assert not error.permanent
    assert len(endpoint.requests) == 3


def test_errors_of_the_server_are_retried():
    with serving(status(503, headers=[("retry-after-ms", "1")]), chat("{}")) as endpoint:
        assert ask(endpoint, max_retries=1).text == "{}"


def test_a_server_that_does_not_answer_is_given_up_in_time():
    match = r"fake at 127.0.0.1:\d+ did not answer within 0.2 s"
    begun = time.monotonic()
    error, _ = failure(slowly(2, chat("{}")), match=match, timeout=0.2)
    assert time.monotonic() - begun < 1.8
    assert not error.permanent


def test_a_server_that_drips_is_given_up_in_time():
    """Each letter comes well within the time-out, all of them do not."""
    begun = time.monotonic()
    failure(dripping(0.1, 30), match=r"did not answer within 0.4 s", timeout=0.4)
    assert time.monotonic() - begun < 2.5


@pytest.mark.parametrize("reply", [endless, raw(b"x" * (2**20 + 1)), raw(b"x" * (2**20 + 1), 400)])
def test_huge_replies_are_not_read_to_their_end(reply):
    failure(reply, match="its reply is larger than 1048576 bytes")


def test_packed_replies_are_not_unpacked():
    bomb = gzip.compress(b" " * 10_000_000)
    failure(raw(bomb, headers=[("Content-Encoding", "gzip")]), match="compressed, which was not asked for")


@pytest.mark.parametrize(
    "body",
    [
        "<html>log in first</html>",
        "",
        "[]",
        "null",
        '{"choices": []}',
        '{"choices": "hello"}',
        '{"choices": [{"message": null}]}',
        '{"choices": [17]}',
        "[" * 200_000,
        '{"choices":' * 50_000,
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_chat_reply_is_one_clear_line(body):
    failure(raw(body), match="did not answer as a chat endpoint does")


@pytest.mark.parametrize(
    ("content", "message", "text"),
    [
        (None, {}, ""),
        (None, {"refusal": "I will not"}, "I will not"),
        ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}, 3, {"image": 1}], {}, "one two"),
        ({"text": "?"}, {}, ""),
    ],
)
def test_content_may_be_missing_refused_or_in_parts(content, message, text):
    with serving(chat(content, **message)) as endpoint:
        assert ask(endpoint).text == text


@pytest.mark.parametrize("usage", [(-1, 2**40), ("9", None), (True, 1.5), ([], {})])
def test_token_counts_that_cannot_be_true_are_zero(usage):
    with serving(chat("{}", usage=usage)) as endpoint:
        reply = ask(endpoint)
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_a_wrong_key_is_one_clear_line_that_does_not_hold_it():
    error, endpoint = failure(
        status(401, f"Incorrect API key provided: {KEY}.\n\nGet one at ..."),
        match=r"refused the key in the environment variable OPENAI_API_KEY \(401\)",
        max_retries=3,
    )
    line = str(error)
    assert KEY not in line
    assert "\n" not in line
    assert len(line) < 300
    assert error.permanent
    assert len(endpoint.requests) == 1


def test_an_echoed_key_is_taken_out_of_replies():
    with serving(chat(f"your key is {KEY}")) as endpoint:
        assert ask(endpoint).text == "your key is [key]"


def test_an_unknown_model_is_one_clear_line():
    error, _ = failure(
        status(404, "no model fake"), match=r"has no such model, or base_url is wrong \(404\): .*no model"
    )
    assert error.permanent


def test_nobody_at_home_is_one_clear_line():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    backend = make_backend("openai", SMALL, model="fake", base_url=f"http://user:{KEY}@127.0.0.1:{port}", max_retries=0)
    with pytest.raises(BackendError, match=rf"^fake at 127.0.0.1:{port} cannot be reached .*: is it running") as caught:
        backend.complete(MESSAGES, SMALL.to_json_schema(), temperature=0.5, seed=7)
    assert KEY not in str(caught.value)
    assert not caught.value.permanent


def test_redirects_are_not_followed():
    with serving(chat("from elsewhere")) as other:
        moved = status(307, "over there", [("Location", f"{other.url}/chat/completions")])
        failure(moved, match=r"refused the request \(307\)")
    assert not other.requests


def test_local_endpoints_need_no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with serving(chat("{}")) as endpoint:
        assert ask(endpoint).text == "{}"
    assert endpoint.requests[0]["headers"]["authorization"] == "Bearer none"


def test_the_endpoint_may_come_from_the_environment(monkeypatch):
    with serving(chat("{}")) as endpoint:
        monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
        monkeypatch.setenv("OTHER_KEY", "other")
        backend = make_backend("openai", SMALL, model="fake", key_env="OTHER_KEY", max_retries=0)
        assert backend.complete(MESSAGES, SMALL.to_json_schema(), temperature=0.5, seed=7).text == "{}"
    assert endpoint.requests[0]["headers"]["authorization"] == "Bearer other"


@pytest.mark.parametrize(
    ("options", "key", "message"),
    [
        ({}, "", "no key: set the environment variable OPENAI_API_KEY, or give a base_url"),
        ({}, "schlüssel", "OPENAI_API_KEY holds letters that no key has"),
        ({"base_url": "localhost:8080"}, KEY, "base_url must look like http://localhost:8080/v1"),
        ({"base_url": "http://[::1"}, KEY, "base_url must look like"),
        ({"base_url": "http://localhost:eight/v1"}, KEY, "base_url must look like"),
        ({"base_url": "http://local\nhost/v1"}, KEY, "base_url must look like"),
        ({"base_url": "http://local..host/v1"}, KEY, "base_url must look like"),
        ({"timeout": 0}, KEY, "timeout must be greater than 0"),
        ({"max_retries": -1}, KEY, "max_retries 0 or more"),
        ({"max_tokens": 0}, KEY, "max_tokens 1 or more"),
        ({"api_key": KEY}, KEY, r"make_backend\('openai'\).*api_key"),
    ],
)
def test_wrong_options_are_reported_before_anything_is_sent(monkeypatch, options, key, message):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ValueError, match=message) as caught:
        make_backend("openai", SMALL, model="fake", **options)
    assert KEY not in str(caught.value)


def test_the_key_is_in_no_name_and_no_representation():
    backend = make_backend("openai", SMALL, model="fake")
    assert backend.name == "fake at api.openai.com"
    assert KEY not in repr(backend) + json.dumps(backend.name)


def test_missing_openai_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ImportError, match=r"the backend 'openai' needs openai: pip install 'lightning-cim\[llm\]'"):
        make_backend("openai", SMALL, model="fake")
