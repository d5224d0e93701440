"""What an upstream's refusal may tell, in whichever form it comes."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.wire.refusal import refusal_body

WORDS = {"vendor/secret-7b": "m", "inference.internal": "[hidden]", "cred-1": "[hidden]"}


def told(document: Any) -> dict[str, Any]:
    body = refusal_body(msgspec.json.encode(document), "req_1", WORDS)
    error: dict[str, Any] = msgspec.json.decode(body)["error"]
    assert set(error) == {"message", "type", "param", "code", "request_id"}
    assert error["request_id"] == "req_1"
    return error


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"error": {"message": "Too long."}}, "Too long."),
        ({"error": "Too long."}, "Too long."),
        ({"object": "error", "message": "Too long.", "code": 400}, "Too long."),
        ({"detail": "Too long."}, "Too long."),
        (
            {"detail": [{"loc": ["body", "n", 0], "msg": "missing"}, 7, {"msg": "odd"}]},
            "body.n.0: missing; odd",
        ),
        ({}, "The model's backend refused the request."),
        ({"error": {"message": 7, "type": 7, "param": 7, "code": {}}}, "The model's backend ref"),
        ({"error": {"message": "Traceback (most recent call last): x"}}, "The model's backend"),
    ],
)
def test_the_sentence_is_found_in_every_form(document: Any, message: str) -> None:
    assert told(document)["message"].startswith(message)


def test_fields_of_openais_form_survive_and_others_do_not() -> None:
    error = {"message": "No.", "type": "t", "param": "p", "code": "c", "account": "acme"}
    assert told({"error": error, "host": "x"}) == {
        "message": "No.",
        "type": "t",
        "param": "p",
        "code": "c",
        "request_id": "req_1",
    }


@pytest.mark.parametrize(
    "secret",
    [
        "http://10.0.0.5:8000/v1",
        "https://user:pw@host/x?y",
        "10.1.2.3",
        "192.168.1.1:8080",
        "[::1]:8000",
        "[fe80::1]",
        "node7.cluster.local:8000",
        "localhost:8000",
        "localhost",
        "/usr/lib/python3/site.py",
        "/srv/models/x.gguf",
        "vllm/engine/core.py",
        "org-abcdef123456",
        "proj_abcdef123456",
        "sk-proj-abc***xyz",
        "llmgw_abcdefghij",
        "someone@acme.example",
        "cred-1",
        "inference.internal",
        "vendor/secret-7b",
    ],
)
def test_where_the_call_went_is_hidden(secret: str) -> None:
    error = told({"error": {"message": f"It failed at {secret}, sorry.", "param": secret}})
    assert secret not in str(error)
    assert error["message"].startswith("It failed at ")
    assert error["message"].endswith(", sorry.")


@pytest.mark.parametrize(
    "sentence",
    [
        "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.",
        "Invalid value for 'messages[0].content': expected a string, got 7.",
        "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' with gpt-4.1 or o3-mini.",
        "Invalid URL (POST /v1/chat/completions); see 3.14 and 1.2.3: line 10:25",
        "Time is 12:30; ratio 1/2; version v1.2.3; and/or.",
    ],
)
def test_what_helps_the_caller_stays(sentence: str) -> None:
    assert told({"error": {"message": sentence}})["message"] == sentence


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"\xff", b'{"a":' * 5000])
def test_what_is_no_object_says_nothing(body: bytes) -> None:
    assert b"The model's backend refused the request." in refusal_body(body, "req_1", {})


def test_a_long_sentence_is_cut() -> None:
    assert len(told({"error": {"message": "x " * 10_000}})["message"]) == 2000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["error", "message", "detail", "loc", "msg", "type", "code"]), inner
        )
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["error", "message", "detail", "x"]), json_values))
def test_no_object_is_too_odd(document: dict[str, Any]) -> None:
    assert told(document)["message"]


def test_a_word_that_must_not_be_told_is_not_cut_in_two() -> None:
    for padding in range(1980, 2001):
        message = told({"error": {"message": "." * padding + "vendor/secret-7b"}})["message"]
        assert "vendor" not in message
        assert len(message) <= 2000


@pytest.mark.parametrize("text", ["a", "a.", "a-", "-", "1.", "/", "a.a-", "[::", "org-"])
def test_whatever_is_repeated_takes_no_time(text: str) -> None:
    long = text * (2000 // len(text))
    error = {"message": long, "type": long, "param": long, "code": long}
    told({"error": error})
    before = time.process_time()
    told({"error": error})
    assert time.process_time() - before < 0.08
