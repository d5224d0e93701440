import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.wire import sse
from llmgw_core.wire.sse import EventSplitter, EventTooLarge, data_event, event_data, event_name

line_ends = st.sampled_from([b"\n", b"\r", b"\r\n"])
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=12)
lines = st.one_of(
    texts.map(lambda text: b"data: " + text.encode()),
    texts.map(lambda text: b"data:" + text.encode()),
    texts.map(lambda text: b": " + text.encode()),
    st.sampled_from([b"data", b"event: error", b"id: 1", b"retry: 10"]),
)
events = st.lists(lines, min_size=1, max_size=4)


def split_at(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


def data_of(pieces: list[bytes]) -> list[bytes]:
    splitter = EventSplitter()
    found = [event_data(event) for piece in pieces for event in splitter.feed(piece)]
    return [data for data in found if data is not None]


def expected(line_list: list[bytes]) -> bytes | None:
    data = [line[5:].removeprefix(b" ") for line in line_list if line.startswith(b"data")]
    return b"\n".join(data) if data else None


@given(st.lists(events, max_size=5), line_ends, st.lists(st.integers(0, 500), max_size=8))
def test_events_come_out_whole_whatever_the_line_ends_and_the_chunking(
    stream: list[list[bytes]], end: bytes, cuts: list[int]
) -> None:
    data = b"".join(end.join(event) + end + end for event in stream)
    wanted = [text for event in stream if (text := expected(event)) is not None]
    assert data_of(split_at(data, cuts)) == wanted


@given(st.lists(events, max_size=5), st.lists(line_ends, min_size=40, max_size=40), st.data())
def test_mixed_line_ends_give_the_same_data_for_every_chunking(
    stream: list[list[bytes]], ends: list[bytes], data: st.DataObject
) -> None:
    whole = b""
    turn = 0
    for event in stream:
        for line in [*event, b""]:
            whole += line + ends[turn % len(ends)]
            turn += 1
    # A CR directly before an LF of the next line is one line end: such a text has another meaning.
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=8))
    pieces = split_at(whole, cuts)
    assert data_of(pieces) == data_of([whole])
    assert data_of([bytes([byte]) for byte in whole]) == data_of([whole])


@given(st.lists(events, min_size=1, max_size=5), st.lists(st.integers(0, 500), max_size=8))
def test_forwarded_bytes_are_the_bytes_received(stream: list[list[bytes]], cuts: list[int]) -> None:
    whole = b"".join(b"\n".join(event) + b"\n\n" for event in stream)
    splitter = EventSplitter()
    out = b"".join(event for piece in split_at(whole, cuts) for event in splitter.feed(piece))
    assert out == whole
    assert splitter.clean


@given(st.lists(events, min_size=1, max_size=5), line_ends, st.lists(st.integers(0, 500)))
def test_an_event_keeps_both_halves_of_a_line_end(
    stream: list[list[bytes]], end: bytes, cuts: list[int]
) -> None:
    whole = [end.join(event) + end + end for event in stream]
    splitter = EventSplitter()
    pieces = split_at(b"".join(whole), cuts)
    assert [event for piece in pieces for event in splitter.feed(piece)] == whole


def test_utf8_split_between_two_reads_stays_whole() -> None:
    data = "data: grüße 😀\n\n".encode()
    assert data_of([bytes([byte]) for byte in data]) == ["grüße 😀".encode()]


def test_a_byte_order_mark_in_front_means_nothing() -> None:
    assert data_of([b"\xef\xbb\xbfdata: x\n\n"]) == [b"x"]


def test_an_unfinished_event_waits_and_can_be_flushed() -> None:
    splitter = EventSplitter()
    assert splitter.feed(b"data: a\n\ndata: b") == [b"data: a\n\n"]
    assert not splitter.clean
    assert splitter.flush() == b"data: b"
    assert splitter.clean


def test_an_event_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", 100)
    splitter = EventSplitter()
    splitter.feed(b"data: " + b"x" * 90)
    with pytest.raises(EventTooLarge):
        splitter.feed(b"x" * 10)


def test_data_of_several_lines_is_joined_and_names_are_found() -> None:
    event = b"event: error\r\ndata: a\r\ndata:b\r\n\r\n"
    assert event_data(event) == b"a\nb"
    assert event_name(event) == b"error"
    assert event_name(b"data: a\n\n") == b""
    assert event_data(b": keep-alive\n\n") is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", b"\n\n"])
def test_data_with_line_ends_is_one_event_with_as_many_lines(end: bytes) -> None:
    event = data_event(b'{"a":' + end + b"1}" + end)
    assert EventSplitter().feed(event) == [event]
    assert b"".join((event_data(event) or b"").split()) == b'{"a":1}'
    assert data_event(b'{"a":1}') == b'data: {"a":1}\n\n'


def test_a_large_event_in_small_pieces_costs_no_more_than_its_size() -> None:
    splitter, piece = EventSplitter(), b"a" * 128
    started = time.process_time()
    for _ in range(16 * 1024):
        assert splitter.feed(piece) == []
    assert [len(event) for event in splitter.feed(b"\n\n")] == [2 * 1024 * 1024 + 2]
    assert time.process_time() - started < 1.0
    assert splitter.clean
