"""The filter for text: every text of every choice, whatever its pieces."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.hooks.text_filter import TextFilter
from llmgw_core.testing.model_server import chat_chunk, usage_object
from llmgw_core.wire.fold import fold_chunks
from llmgw_core.wire.mask import Mask
from llmgw_core.wire.stream_event import StreamEvent

PATTERN = re.compile("a+b")
ROLE = chat_chunk({"role": "assistant", "content": ""})
STOP = chat_chunk({}, "stop")
USAGE = {**chat_chunk({}), "choices": [], "usage": usage_object()}


def mask() -> Mask:
    return Mask(PATTERN, "*", longest=6)


def through(documents: list[dict[str, Any]], **options: Any) -> list[StreamEvent]:
    text_filter = TextFilter(mask, **options)
    out: list[StreamEvent] = []
    for document in documents:
        out += text_filter.feed(StreamEvent.of(document))
    return out + text_filter.finish()


def folded(events: list[StreamEvent]) -> Any:
    return msgspec.json.decode(fold_chunks(b"".join(event.raw for event in events)))


def saying(index: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return {**chat_chunk({}), "choices": [choice]}


def tool(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    return {"index": index, **fields, "function": {"arguments": arguments}}


pieces = st.lists(st.text("abc", max_size=4), max_size=8)


@given(zero=pieces, one=pieces, thought=pieces, arguments=pieces, together=st.booleans())
def test_every_text_is_masked_as_if_it_were_whole(
    zero: list[str], one: list[str], thought: list[str], arguments: list[str], together: bool
) -> None:
    zero, one, thought, arguments = map(bounded, (zero, one, thought, arguments))
    thought = [piece.replace("a", "") for piece in thought[:1]] + thought[1:]
    documents = [ROLE, saying(1, {"role": "assistant"})]
    documents += [saying(0, {"reasoning_content": piece}) for piece in thought]
    for left, right in zip(zero + [""] * len(one), one + [""] * len(zero), strict=True):
        documents += [saying(0, {"content": left}), saying(1, {"content": right})]
    documents += [saying(1, {"tool_calls": [tool(0, piece)]}) for piece in arguments]
    if together:
        choices = [saying(index, {}, "stop")["choices"][0] for index in (0, 1)]
        documents.append({**STOP, "choices": choices})
    else:
        documents += [saying(0, {}, "stop"), saying(1, {}, "tool_calls")]
    events = through([*documents, USAGE])
    whole = folded(events)
    first, second = whole["choices"]
    for found, parts in (
        (first["message"].get("content"), zero),
        (second["message"].get("content"), one),
        (first["message"].get("reasoning_content", ""), thought),
    ):
        assert (found or "") == longest_masked(parts)
    if arguments:
        [call] = second["message"]["tool_calls"]
        assert call["function"]["arguments"] == longest_masked(arguments)
    assert first["finish_reason"] == "stop"
    assert whole["usage"] == usage_object()
    assert events[-1].choices == ()


def bounded(pieces: list[str]) -> list[str]:
    """No match in them is longer than the mask was told, wherever the pieces are cut."""
    found, run = [], 0
    for piece in pieces:
        kept = ""
        for letter in piece:
            run = run + 1 if letter == "a" else 0
            kept += letter if run <= 4 else ""
        found.append(kept)
    return found


def longest_masked(parts: list[str]) -> str:
    """What the mask makes of the text in one piece."""
    whole = mask()
    return whole.push("".join(parts)) + whole.end()


def test_what_is_unchanged_keeps_its_bytes_and_what_is_held_makes_no_events() -> None:
    raw = b'data: {"choices":[{"delta":{"role":"assistant","content":""}, "x" : 1}]}\n\n'
    [event] = TextFilter(mask).feed(StreamEvent(raw))
    assert event.raw == raw
    assert through([ROLE, chat_chunk({"content": "a"})])[0].raw == StreamEvent.of(ROLE).raw
    assert len(through([chat_chunk({"content": "a"}), chat_chunk({"content": "a"})])) == 1


def test_a_finish_with_text_says_all_of_it_itself() -> None:
    events = through([chat_chunk({"content": "xxaa"}), chat_chunk({"content": "b."}, "stop")])
    assert [event.choices[0].text for event in events] == ["xx*."]
    assert events[0].choices[0].finish_reason == "stop"


def test_reasoning_ends_where_the_answer_begins() -> None:
    events = through(
        [
            chat_chunk({"reasoning": "thinking"}),
            chat_chunk({"content": "answer "}),
            chat_chunk({"reasoning": "again", "content": ""}),
            STOP,
        ]
    )
    deltas = [event.choices[0].delta for event in events]
    assert deltas == [
        {"reasoning": "th"},
        {"reasoning": "inking"},
        {"content": "a"},
        {"content": "nswer "},
        {"reasoning": "again"},
        {},
    ]
    assert folded(events)["choices"][0]["message"]["reasoning"] == "thinkingagain"


def test_a_chunk_with_the_last_thought_and_the_first_word_says_both() -> None:
    events = through(
        [
            chat_chunk({"reasoning": "a"}),
            chat_chunk({"reasoning": "b!", "content": "Hello aaab"}),
            STOP,
        ]
    )
    assert events[0].choices[0].delta == {"reasoning": "*!", "content": "Hell"}
    message = folded(events)["choices"][0]["message"]
    assert (message["reasoning"], message["content"]) == ("*!", "Hello *")


def test_a_stream_without_a_finish_gives_out_its_rest_at_the_end() -> None:
    events = through([chat_chunk({"content": "xaab"})])
    assert [event.choices[0].text for event in events] == ["x*"]
    assert TextFilter(mask).finish() == []


def test_lists_without_numbers_are_whole_texts() -> None:
    delta = {"content": [{"type": "text", "text": "xaab"}, "aab", 7]}
    [event] = through([chat_chunk(delta)])
    assert event.choices[0].delta == {"content": [{"type": "text", "text": "x*"}, "*", 7]}


def test_names_are_no_text_and_only_the_wanted_fields_are_looked_at() -> None:
    call = tool(0, "aab", id="aab", type="function")
    call["function"]["name"] = "aab"
    [event, *_] = through([chat_chunk({"tool_calls": [call]}), STOP])
    assert event.to_dict()["choices"][0]["delta"]["tool_calls"][0] == {
        "index": 0,
        "id": "aab",
        "type": "function",
        "function": {"arguments": "", "name": "aab"},
    }
    document = chat_chunk({"content": "aab", "refusal": "aab"}, "stop")
    [event] = through([document], only=frozenset({"content"}))
    assert event.choices[0].delta == {"content": "*", "refusal": "aab"}
