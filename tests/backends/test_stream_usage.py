"""Where and how often a stream carries usage: counted all the same, and hidden where unasked."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.backends.canonical_stream import CanonicalStreamReader
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.domain.usage import Usage
from llmgw_core.testing.model_server import DONE, chat_chunk, chat_events, event, usage_object
from llmgw_core.wire.sse import EventSplitter, event_data


class Seen(NamedTuple):
    """What a client and the books get of a stream."""

    out: bytes
    usage: Usage | None
    failure: str


def read(pieces: list[bytes], *, hide_usage: bool = True) -> Seen:
    reader = CanonicalStreamReader(hide_usage=hide_usage)
    out, failure = b"", ""
    try:
        for piece in pieces:
            out += reader.feed(piece)
        out += reader.end()
    except UpstreamFailure as error:
        failure = error.kind
    return Seen(out, reader.usage, failure)


def test_usage_in_the_last_content_chunk_is_counted_and_hidden_from_who_did_not_ask() -> None:
    content = chat_chunk({"content": "b"}, "stop")
    events = [event(chat_chunk({"content": "a"})), event({**content, "usage": usage_object(2, 1)})]
    seen = read([*events, DONE])
    assert seen.usage == Usage(2, 1)
    assert seen.out == b"".join([events[0], event(content), DONE])
    assert read([*events, DONE], hide_usage=False).out == b"".join([*events, DONE])


def test_usage_in_every_chunk_is_hidden_in_every_chunk() -> None:
    contents = [chat_chunk({"content": word}) for word in "abc"]
    events = [event({**each, "usage": usage_object(9, n)}) for n, each in enumerate(contents, 1)]
    seen = read([*events, DONE])
    assert seen == Seen(b"".join([*map(event, contents), DONE]), Usage(9, 3), "")


def test_what_is_left_of_an_event_without_its_usage_keeps_its_other_lines() -> None:
    last = {**chat_chunk({"content": "b"}, "stop"), "usage": usage_object(2, 1)}
    seen = read([b"id: 7\nevent: message\n" + event(last), DONE])
    assert (
        seen.out == b"id: 7\nevent: message\n" + event(chat_chunk({"content": "b"}, "stop")) + DONE
    )


def test_an_event_of_several_lines_stays_one_event_without_its_usage() -> None:
    last = {**chat_chunk({"content": "b"}, "stop"), "usage": usage_object(2, 1)}
    pretty = msgspec.json.format(msgspec.json.encode(last), indent=1)
    sent = b"".join(b"data: " + line + b"\n" for line in pretty.splitlines()) + b"\n"
    seen = read([sent, DONE])
    content, end = EventSplitter().feed(seen.out)
    assert msgspec.json.decode(event_data(content) or b"") == chat_chunk({"content": "b"}, "stop")
    assert (end, seen.usage) == (DONE, Usage(2, 1))


@pytest.mark.parametrize("together", [True, False])
def test_usage_in_the_middle_of_a_text_is_none_until_there_is_a_later_one(together: bool) -> None:
    middle = event({"choices": [], "usage": usage_object(9, 1)})
    words = [event(chat_chunk({"content": word})) for word in ("Hello", " there", "!")]
    end = event(chat_chunk({}, "stop"))
    events = [words[0], middle, *words[1:], end, DONE]
    seen = read([b"".join(events)] if together else events)
    assert seen == Seen(b"".join([*words, end, DONE]), None, "")
    later = event({"choices": [], "usage": usage_object(9, 3)})
    events.insert(-1, later)
    seen = read([b"".join(events)] if together else events)
    assert seen == Seen(b"".join([*words, end, DONE]), Usage(9, 3), "")


@pytest.mark.parametrize("together", [True, False])
def test_usage_that_further_text_has_made_out_of_date_is_none(together: bool) -> None:
    early = {**chat_chunk({"role": "assistant", "content": ""}), "usage": usage_object(9, 0)}
    words = [event(chat_chunk({"content": word})) for word in ("Hello", " there")]
    events = [event(early), *words, event(chat_chunk({}, "stop")), DONE]
    seen = read([b"".join(events)] if together else events)
    assert (seen.failure, seen.usage) == ("", None)


def test_what_says_nothing_does_not_make_usage_out_of_date() -> None:
    content = event(chat_chunk({"content": "a"}))
    usage = event({"choices": None, "usage": usage_object(2, 1)})
    ends = [event(chat_chunk({}, "stop")), b": bye\n\n", event({"choices": [], "usage": None})]
    seen = read([content, usage, *ends, DONE])
    assert seen.usage == Usage(2, 1)
    assert seen.out == b"".join([content, *ends, DONE])


def test_usage_in_the_place_that_groq_has_for_it_is_counted_and_left_there() -> None:
    last = {**chat_chunk({}, "stop"), "x_groq": {"id": "req_1", "usage": usage_object(2, 1)}}
    first = {**chat_chunk({"content": "a"}), "x_groq": {"id": "req_1"}}
    other = {**chat_chunk({"content": "b"}), "x_groq": "elsewhere"}
    events = [event(other), event(first), event(last), DONE]
    assert read(events) == Seen(b"".join(events), Usage(2, 1), "")


@given(st.lists(st.text("abc xyz", min_size=1), min_size=1), st.integers(1, 400), st.booleans())
def test_text_without_escapes_in_events_of_one_envelope_is_measured_exactly(
    words: list[str], size: int, reported: bool
) -> None:
    events = chat_events(words)
    stream = b"".join(events if reported else [*events[:-2], DONE])
    reader = CanonicalStreamReader(hide_usage=True)
    for at in range(0, len(stream), size):
        reader.feed(stream[at : at + size])
    reader.end()
    assert reader.output_bytes == len("".join(words))


def test_the_last_of_several_usages_counts() -> None:
    events = [
        event({**chat_chunk({"content": "a"}), "usage": usage_object(2, tokens)})
        for tokens in (1, 2, 3)
    ]
    assert read([*events, DONE]).usage == Usage(2, 3)


def test_an_odd_usage_neither_fails_the_stream_nor_replaces_a_good_one() -> None:
    good = event({"choices": [], "usage": usage_object(2, 1)})
    odd = event({"choices": [], "usage": {"prompt_tokens": "many"}})
    seen = read([event(chat_chunk({"content": "a"}, "stop")), good, odd, DONE])
    assert (seen.failure, seen.usage) == ("", Usage(2, 1))


def test_usage_that_the_client_asked_for_is_shown() -> None:
    stream = chat_events()
    assert read(stream, hide_usage=False).out == b"".join(stream)
