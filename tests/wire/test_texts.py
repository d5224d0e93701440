from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.testing.model_server import chat_chunk, chat_events, completion, event
from llmgw_core.wire.request import decode_request
from llmgw_core.wire.texts import reply_texts, request_texts, stream_texts


def test_the_texts_of_a_request_are_what_a_model_reads() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "Hi"}, picture]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "7"},
    ]
    body = msgspec.json.encode({"model": "m", "messages": messages, "tools": [{"name": "f"}]})
    texts = request_texts(decode_request(body, "chat.completions"))
    assert texts == ["Be brief.", "ann", "Hi", "f", "{}", "7", "f"]


@pytest.mark.parametrize(("input", "texts"), [("a b", ["a b"]), (["a", "b"], ["a", "b"])])
def test_the_texts_of_embeddings_are_their_input(input: object, texts: list[str]) -> None:
    body = msgspec.json.encode({"model": "m", "input": input})
    assert request_texts(decode_request(body, "embeddings")) == texts


def test_the_texts_of_a_reply_and_of_the_same_stream_are_the_same() -> None:
    words = ["Hello", " you", " there"]
    assert "".join(reply_texts(msgspec.json.encode(completion("".join(words))))) == "".join(words)
    assert "".join(stream_texts(b"".join(chat_events(words)))) == "".join(words)


def test_reasoning_and_tool_calls_are_text() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"arguments": "{x"}}
    stream = event(chat_chunk({"reasoning_content": "hm"})) + event(
        chat_chunk({"tool_calls": [call]})
    )
    assert stream_texts(b": comment\n\n" + stream + b"data: [DONE]\n\n") == ["hm", "{x"]


odd: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner), st.dictionaries(st.sampled_from(["choices", "delta", "message"]), inner)
    ),
    max_leaves=8,
)


@given(odd)
def test_what_has_another_shape_fails_nobody(document: object) -> None:
    body = msgspec.json.encode(document)
    assert isinstance(reply_texts(body), list)
    assert isinstance(stream_texts(b"data: " + body + b"\n\n"), list)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000])
def test_what_cannot_be_read_has_no_text(body: bytes) -> None:
    assert reply_texts(body) == []
    fields = {"model": msgspec.Raw(b'"m"'), "messages": msgspec.Raw(b"[" + body)}
    request = decode_request(b'{"model":"m","messages":[1]}', "chat.completions")
    request.fields.update(fields)
    assert request_texts(request) == []
