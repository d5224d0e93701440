"""The stream reader: the same whatever the chunking, and as careful as one that decodes all."""

from __future__ import annotations

import itertools
import json
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmgw_core.backends.canonical_stream import END, CanonicalStreamReader
from llmgw_core.backends.chunks import text_bytes, without_usage
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.usage import Usage
from llmgw_core.testing.model_server import DONE, chat_chunk, chat_events, event, usage_object
from llmgw_core.wire.sse import MAX_EVENT, EventSplitter, event_data

TRAPS = (
    '"usage":',
    '"usage":null',
    "[DONE]",
    "data: [DONE]\n\n",
    '"error"',
    '{"error": {"message": "no"}}',
    "event: error",
    "\nevent:error\ndata: {}\n\n",
    "\r\n\r\n",
    "\u2028 \x85 \\ \" ' \x00",
    "äöü 漢字 🙂",
    "",
)


class Seen(NamedTuple):
    """What a client and the books get of a stream."""

    out: bytes
    content: bool
    done: bool
    usage: Usage | None
    failure: str


def read(pieces: list[bytes], *, hide_usage: bool = True) -> Seen:
    """A stream read as the pipeline reads it."""
    reader = CanonicalStreamReader(hide_usage=hide_usage)
    out, failure = b"", ""
    try:
        for piece in pieces:
            out += reader.feed(piece)
            if reader.done:
                break
        out += reader.end()
    except UpstreamFailure as error:
        out += reader.pending()
        failure = error.kind
    return Seen(out, reader.content, reader.done, reader.usage, failure)


def read_decoding_everything(stream: bytes, *, hide_usage: bool) -> Seen:
    """The same by a reader that decodes every event and takes no shortcut."""
    out = b""
    content = finished_last = False
    usage: Usage | None = None
    for one in EventSplitter().feed(stream):
        data = event_data(one)
        if data is None:
            out += one
            continue
        if data.strip() == b"[DONE]":
            return Seen(out + one, content, True, usage, "")
        if one.startswith(b"event: error"):
            return Seen(out, content, False, usage, "server")
        try:
            chunk = json.loads(data.decode())
        except ValueError:
            return Seen(out, content, False, usage, "protocol")
        if chunk.get("error") or chunk.get("object") == "error":
            return Seen(out, content, False, usage, "server")
        choices = chunk.get("choices") or []
        for choice in choices:
            delta = {key: value for key, value in choice["delta"].items() if key != "role"}
            finished = bool(choice.get("finish_reason"))
            content = content or finished or any(delta.values())
        if choices:
            finished_last = any(choice.get("finish_reason") for choice in choices)
        if reported := chunk.get("usage"):
            usage = Usage(reported["prompt_tokens"], reported["completion_tokens"])
            if hide_usage:
                out += without_usage(one, data) if choices else b""
                continue
        elif any(text_bytes(choice["delta"]) for choice in choices):
            usage = None
        out += one
    failure = "" if finished_last else "cut"
    return Seen(out + (b"" if failure else END), content, False, usage, failure)


def cut_at(stream: bytes, places: list[int]) -> list[bytes]:
    """`stream` in pieces, cut at `places` (any integers)."""
    edges = [0, *sorted({place % (len(stream) + 1) for place in places}), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


texts = st.one_of(st.sampled_from(TRAPS), st.text(max_size=12))
deltas = st.one_of(
    st.builds(lambda text: {"content": text}, texts),
    st.builds(lambda text: {"reasoning_content": text}, texts),
    st.builds(
        lambda text: {"tool_calls": [{"index": 0, "function": {"arguments": text}}]},
        texts,
    ),
    st.just({"role": "assistant", "content": ""}),
)


def _spaced(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def _with_usage(chunk: dict[str, Any]) -> dict[str, Any]:
    return {**chunk, "usage": usage_object(5, 6)}


def _with_null_usage(chunk: dict[str, Any]) -> dict[str, Any]:
    return {**chunk, "usage": None}


chunks = st.builds(chat_chunk, deltas)
content_events = st.one_of(
    st.builds(event, chunks),
    st.builds(_spaced, chunks),
    st.builds(lambda chunk: event(_with_null_usage(chunk)), chunks),
    st.builds(lambda chunk: _spaced(_with_null_usage(chunk)), chunks),
    st.builds(lambda chunk: event(_with_usage(chunk)), chunks),
    st.builds(lambda chunk: b"event: message\n" + event(chunk), chunks),
    st.just(b": keep-alive\n\n"),
    st.just(b"retry: 10\n\n"),
)
endings = st.sampled_from(
    [
        [],
        [DONE],
        [b"data:[DONE]\n\n"],
        [event(chat_chunk({}, "stop"))],
        [event(chat_chunk({}, "length")), DONE],
        [event(chat_chunk({}, "stop")), event({"choices": [], "usage": usage_object()})],
        [event(chat_chunk({}, "stop")), event({"choices": [], "usage": usage_object()}), DONE],
        [event(chat_chunk({}, "stop")), b": bye\n\n"],
        [event({"error": {"message": "out of memory"}})],
        [b"event: error\n" + event({"message": "out of memory"})],
        [b"event: error\ndata: out of memory\n\n"],
        [event({"object": "error", "message": "out of memory", "code": 500})],
        [event(chat_chunk({"content": "cut"}))[:-8] + b"\n\n", DONE],
        [b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', DONE],
        [b'data: {"model":"\xc3","choices":[{"delta":{"content":"a"}}]}\n\n', DONE],
    ]
)
streams = st.builds(lambda body, end: b"".join([*body, *end]), st.lists(content_events), endings)
places = st.lists(st.integers(0, 100_000), max_size=8)


@given(streams, places, st.booleans())
@example(b"".join(chat_events()), [], True)
@example(b"".join([*chat_events()[:-1]]), [], True)
def test_however_a_stream_is_cut_it_reads_as_if_every_event_had_been_decoded(
    stream: bytes, places: list[int], hide_usage: bool
) -> None:
    assert read(cut_at(stream, places), hide_usage=hide_usage) == read_decoding_everything(
        stream, hide_usage=hide_usage
    )


@given(streams, st.booleans())
def test_a_stream_that_arrives_byte_by_byte_reads_the_same(stream: bytes, hide_usage: bool) -> None:
    single = [stream[at : at + 1] for at in range(len(stream))]
    assert read(single, hide_usage=hide_usage) == read([stream], hide_usage=hide_usage)


@given(streams, places, st.sampled_from([b"\r\n", b"\r"]))
def test_other_line_ends_change_nothing_but_themselves(
    stream: bytes, places: list[int], line_end: bytes
) -> None:
    converted = read(cut_at(stream.replace(b"\n", line_end), places))
    plain = read([stream])
    assert converted._replace(out=b"") == plain._replace(out=b"")
    assert [event_data(one) for one in EventSplitter().feed(converted.out)] == [
        event_data(one) for one in EventSplitter().feed(plain.out)
    ]


@given(texts)
def test_generated_text_is_never_mistaken_for_a_mark(text: str) -> None:
    stream = chat_events(["first", text, "last"])
    seen = read(stream)
    assert seen.out == b"".join(stream[:4]) + stream[4] + DONE
    assert (seen.failure, seen.usage) == ("", Usage(7, 3))


def test_the_end_marker_is_withheld_until_it_is_asked_for() -> None:
    reader = CanonicalStreamReader(hide_usage=True)
    out = reader.feed(b"".join(chat_events()))
    assert reader.done
    assert b"[DONE]" not in out
    assert reader.end() == DONE


def test_what_follows_the_end_marker_is_dropped() -> None:
    seen = read([b"".join(chat_events()) + event(chat_chunk({"content": "more"}))])
    assert seen.out.endswith(DONE)
    assert b"more" not in seen.out


@pytest.mark.parametrize("together", [True, False])
def test_a_stream_that_forgets_its_end_marker_after_the_usage_is_complete(together: bool) -> None:
    events = chat_events()[:-1]
    seen = read([b"".join(events)] if together else events)
    assert seen.failure == ""
    assert seen.out == b"".join(events[:-1]) + END


def test_a_finished_choice_counts_though_comments_follow_it() -> None:
    events = [event(chat_chunk({"content": "a"})), event(chat_chunk({}, "stop")), b": bye\n\n"]
    assert read(events).failure == ""


@pytest.mark.parametrize("length", [1, 2])
def test_a_stream_that_ends_with_neither_reason_nor_marker_is_cut(length: int) -> None:
    seen = read(chat_events(["a", "b"])[: length + 1])
    assert seen.failure == "cut"


def test_an_empty_stream_is_cut() -> None:
    assert read([]).failure == "cut"


@pytest.mark.parametrize("marker", [b"data: [DONE]", b"data:[DONE]\n", b"data: [DONE]\r\n"])
def test_an_end_marker_without_its_blank_line_ends_the_stream(marker: bytes) -> None:
    events = chat_events()[:-1]
    seen = read([*events, marker])
    assert seen.done
    assert seen.out == b"".join(events[:-1]) + END


def test_a_last_event_without_its_blank_line_is_delivered_whole() -> None:
    events = [event(chat_chunk({"content": "a"})), event(chat_chunk({"content": "b"}, "stop"))]
    seen = read([events[0], events[1].rstrip(b"\n")])
    assert seen.out == b"".join(events) + END


@pytest.mark.parametrize(
    "half", [b'data: {"choices":[{"usage"', b'data: {"choices":[{', b"data: {"]
)
@pytest.mark.parametrize("before", [{}, {"finish": "stop"}])
def test_half_an_event_at_the_end_was_cut_and_is_not_handed_over(
    half: bytes, before: dict[str, str]
) -> None:
    last = event(chat_chunk({"content": "a"}, **before))
    seen = read([last, b"data: " + half])
    assert (seen.failure, seen.out) == ("cut", last)


def test_half_an_error_at_the_end_is_an_error() -> None:
    seen = read([event(chat_chunk({"content": "a"})), b'event: error\ndata: {"mess'])
    assert seen.failure == "server"


@pytest.mark.parametrize(
    "bad",
    [
        b"data: not json\n\n",
        b"data: \xff\n\n",
        b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n',
        b'data: {"model":"\xff","choices":[{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"\n\n',
        b"data: " + b"[" * 100_000 + b"\n\n",
    ],
)
@pytest.mark.parametrize("before", [b"", event(chat_chunk({"content": "a"}))])
@pytest.mark.parametrize("after", [b"", event(chat_chunk({"content": "b"}))])
def test_an_event_that_is_no_chunk_is_a_protocol_error(
    bad: bytes, before: bytes, after: bytes
) -> None:
    whole = before + bad + after
    for pieces in ([whole], [before, bad + after], [before + bad, after]):
        seen = read(pieces)
        assert (seen.failure, seen.out) == ("protocol", before)


def test_a_chunk_of_the_wrong_shape_is_a_protocol_error_until_there_is_content() -> None:
    assert read([b'data: {"choices":7}\n\n']).failure == "protocol"


def test_an_error_after_content_keeps_what_was_accepted_before_it() -> None:
    good = event(chat_chunk({"content": "a"}))
    seen = read([good + good + event({"error": {"message": "no", "code": 500}})])
    assert seen.failure == "server"
    assert seen.out == good + good


def test_an_error_that_is_null_is_none() -> None:
    chunk = {**chat_chunk({"content": "a"}, "stop"), "error": None}
    assert read([event(chunk)]).failure == ""


def test_role_and_empty_deltas_are_no_content() -> None:
    reader = CanonicalStreamReader(hide_usage=True)
    reader.feed(event(chat_chunk({"role": "assistant", "content": ""})))
    reader.feed(event(chat_chunk({"content": None, "refusal": None})))
    assert not reader.content
    reader.feed(event(chat_chunk({"refusal": "no"})))
    assert reader.content


def test_an_event_beyond_the_largest_is_a_protocol_error() -> None:
    reader = CanonicalStreamReader(hide_usage=True)
    with pytest.raises(UpstreamFailure) as caught:
        reader.feed(b"data: " + b"x" * (MAX_EVENT + 1))
    assert caught.value.kind == "protocol"


@given(st.lists(st.text(st.characters(codec="ascii"), min_size=1), min_size=1))
def test_the_estimate_of_the_output_is_near_the_text(words: list[str]) -> None:
    reader = CanonicalStreamReader(hide_usage=True)
    for one in chat_events(words):
        reader.feed(one)
    exact = sum(len(word) for word in words)
    escaped = sum(len(msgspec.json.encode(word)) - 2 for word in words)
    envelope = len(event(chat_chunk({}, "stop"))) + 100
    assert exact - envelope <= reader.output_bytes <= escaped + envelope
