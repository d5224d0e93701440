from __future__ import annotations

import msgspec
import pytest

from llmgw_core.domain.usage import Usage
from llmgw_core.wire.stream_event import UNREADABLE, StreamEvent, read_event

ODD = (
    b'id: 1\ndata: {"id":"c","n" : 1.50,"big":123456789012345678901234567890,"choices":'
    b'[{"index":1,"delta":{"content":"x\\u00e9","more":[1.0]},"logprobs":{"content":["x"]}},'
    b'{"delta":{"role":"assistant"}}]}\r\n\r\n'
)


def test_an_event_is_its_bytes_and_what_they_say() -> None:
    event = StreamEvent(ODD)
    assert event.raw == ODD
    one, zero = event.choices
    assert (one.index, one.text, one.finish_reason, one.substantial) == (1, "xé", None, True)
    assert (zero.index, zero.text, zero.substantial) == (0, "", False)
    assert event.usage is None
    assert event.substantial


def test_a_changed_delta_leaves_everything_else_as_it_was_written() -> None:
    changed = StreamEvent(ODD).with_delta(1, {"content": "***", "more": None, "new": {"a": 1}})
    assert changed.raw == (
        b'data: {"id":"c","n":1.50,"big":123456789012345678901234567890,"choices":'
        b'[{"index":1,"delta":{"content":"***","new":{"a":1}},"logprobs":null},'
        b'{"delta":{"role":"assistant"}}]}\n\n'
    )
    assert StreamEvent(ODD).with_delta(0, {"content": "y"}).choices[1].text == "y"
    assert StreamEvent(ODD).with_delta(7, {"content": "y"}).choices == StreamEvent(ODD).choices


def test_a_delta_that_was_null_can_be_given_fields() -> None:
    event = StreamEvent(b'data: {"choices":[{"delta":null}]}\n\n')
    assert event.choices[0].text == ""
    assert event.with_delta(0, {"content": "a"}).choices[0].text == "a"


def test_an_event_of_several_lines_can_be_changed() -> None:
    raw = (
        b'data: {"choices":[{"delta":{"content":"a"},"more":{"n":\ndata: 1}}],\ndata: "id":"c"}\n\n'
    )
    changed = StreamEvent(raw).with_delta(0, {"content": "b"})
    assert changed.to_dict() == {
        "choices": [{"delta": {"content": "b"}, "more": {"n": 1}}],
        "id": "c",
    }


def test_a_further_event_says_only_what_it_is_told_to() -> None:
    last = StreamEvent(
        b'data: {"id":"c","usage":{"prompt_tokens":1,"completion_tokens":0},"choices":'
        b'[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'
    )
    assert last.usage == Usage(1, 0)
    assert last.saying(0, {"content": "a"}).to_dict() == {
        "id": "c",
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
    }


def test_a_filter_can_make_events_of_its_own() -> None:
    event = StreamEvent.of({"choices": [{"index": 0, "delta": {"content": "a"}}]})
    assert event.raw == b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'


def test_events_cannot_be_changed_in_place() -> None:
    event = StreamEvent(ODD)
    with pytest.raises(AttributeError):
        event.raw = b"data: [DONE]\n\n"  # type: ignore[misc]
    assert event.raw == ODD


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\r\r", "\n\r\n", "\r\n\n", "\r\n\r"])
def test_an_event_has_its_blank_line(end: str) -> None:
    assert StreamEvent(b"data: {}" + end.encode()).choices == ()
    for less in (end[:1], end[:2] if end.startswith("\r\n") else "", ""):
        with pytest.raises(UNREADABLE):
            StreamEvent(b"data: {}" + less.encode())


def test_comments_and_empty_events_are_no_chunks() -> None:
    assert read_event(b": comment\n\n") is None
    assert read_event(b"data:\n\n") is None
    assert read_event(b"data: {}\n\n") is not None


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"choices":{}}', b'{"choices":[{"index":"x"}]}', b"[" * 100_000]
)
def test_what_is_no_chunk_is_unreadable(data: bytes) -> None:
    with pytest.raises(UNREADABLE):
        read_event(b"data: " + data + b"\n\n")


def test_usage_only_chunks_say_nothing_to_the_client() -> None:
    event = StreamEvent.of({"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}})
    assert (event.usage, event.substantial, event.choices) == (Usage(2, 3), False, ())
    assert msgspec.json.encode(event.to_dict()).startswith(b'{"choices":[]')
