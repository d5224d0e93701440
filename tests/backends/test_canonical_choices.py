"""Streams with several choices: finished when all are, content when any has some."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.backends.canonical_choices import ChoicesStreamReader
from llmgw_core.domain.failure import UpstreamFailure
from llmgw_core.testing.model_server import DONE, chat_chunk, event


def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
    document = chat_chunk(delta, finish)
    document["choices"][0]["index"] = index
    return event(document)


def reader() -> ChoicesStreamReader:
    return ChoicesStreamReader(hide_usage=True, choices=2)


def test_a_choice_that_ends_before_another_begins_is_no_content() -> None:
    one = reader()
    one.feed(of(0, {"role": "assistant"}) + of(0, {}, "content_filter"))
    assert (one.content, one.finished) == (False, False)
    one.feed(of(1, {"content": "Hello"}))
    assert (one.content, one.finished) == (True, False)


@pytest.mark.parametrize("cut_at", [3, 4, 5])
def test_a_stream_that_ends_with_a_choice_open_was_cut(cut_at: int) -> None:
    events = [
        of(0, {"content": "a"}),
        of(1, {"content": "b"}),
        of(0, {}, "stop"),
        of(1, {"content": "c"}),
        of(0, {}, "stop"),
        of(1, {}, "stop"),
    ]
    one = reader()
    for piece in events[:cut_at]:
        assert one.feed(piece) == piece
    with pytest.raises(UpstreamFailure) as caught:
        one.end()
    assert caught.value.kind == "cut"


def test_all_finished_is_an_end_and_so_is_the_end_marker() -> None:
    whole = reader()
    whole.feed(of(1, {"content": "a"}, "stop") + of(0, {"content": "b"}, "length"))
    assert whole.finished
    assert whole.end() == DONE
    single = reader()
    single.feed(of(0, {"content": "b"}, "stop") + DONE)  # it makes one, whatever was asked for
    assert single.done
    assert single.end() == DONE


@given(st.lists(st.integers(1, 60), max_size=12))
def test_chunking_does_not_matter(cuts: list[int]) -> None:
    stream = of(0, {"content": 'x"usage"'}) + of(0, {}, "stop") + of(1, {"content": "y"}, "stop")
    one, out, at = reader(), b"", 0
    for cut in [*cuts, len(stream)]:
        out += one.feed(stream[at : at + cut])
        at += cut
    assert out + one.end() == stream + DONE
    assert one.output_bytes == len('x"usage"y')
