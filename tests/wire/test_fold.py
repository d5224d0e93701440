import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw_core.wire.fold import fold_chunks, unfold

tool_calls = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.text(min_size=1, max_size=5),
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.text(min_size=1, max_size=8), "arguments": st.text(max_size=20)}
            ),
        }
    ),
    min_size=1,
    max_size=3,
)


def event(data: object) -> bytes:
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def chunk(delta: object, finish: str | None = None, index: int = 0) -> bytes:
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return event({"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]})


def test_text_and_tool_calls_are_put_together_as_a_client_would() -> None:
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
    stream = (
        b": comment\n\n"
        + chunk({"role": "assistant", "content": None})
        + chunk({"content": "Hel"})
        + chunk({"content": "lo"})
        + chunk({"tool_calls": [call]})
        + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]})
        + chunk({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]})
        + chunk({}, "tool_calls")
        + event({"choices": [], "usage": {"prompt_tokens": 1}})
        + b"data: [DONE]\n\n"
    )
    document = msgspec.json.decode(fold_chunks(stream))
    assert document["object"] == "chat.completion"
    assert document["usage"] == {"prompt_tokens": 1}
    (choice,) = document["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello",
        "tool_calls": [
            {
                "index": 0,
                "id": "t1",
                "type": "function",
                "function": {"name": "f", "arguments": '{"a":1}'},
            }
        ],
    }


def test_choices_and_logprobs_stay_apart() -> None:
    stream = (
        chunk({"content": "a"}, index=1)
        + chunk({"content": "b"})
        + chunk({"x": {"y": "1"}, "z": [1]})
        + chunk({"x": {"y": "2"}, "z": [2]})
    )
    first, second = msgspec.json.decode(fold_chunks(stream))["choices"]
    assert first["message"]["content"] == "b"
    assert (first["message"]["x"], first["message"]["z"]) == ({"y": "12"}, [1, 2])
    assert second["message"]["content"] == "a"


def test_tool_calls_may_be_null_before_there_are_any() -> None:
    call = {"index": 0, "id": "t1", "function": {"name": "f", "arguments": "{}"}}
    stream = chunk({"content": None, "tool_calls": None}) + chunk({"tool_calls": [call]})
    (choice,) = msgspec.json.decode(fold_chunks(stream))["choices"]
    assert choice["message"]["tool_calls"] == [call]


def test_logprobs_of_all_chunks_are_gathered() -> None:
    def said(*tokens: str) -> bytes:
        logprobs = {"content": [{"token": token} for token in tokens], "refusal": None}
        choice = {"index": 0, "delta": {}, "logprobs": logprobs if tokens else None}
        return event({"choices": [choice]})

    stream = said() + said("a", "b") + said("c") + said()
    (choice,) = msgspec.json.decode(fold_chunks(stream))["choices"]
    tokens = [{"token": token} for token in "abc"]
    assert choice["logprobs"] == {"content": tokens, "refusal": None}


@given(st.none() | st.text(max_size=30), st.none() | tool_calls, st.booleans())
def test_unfolding_and_folding_again_gives_the_same_reply(
    content: str | None, calls: list[dict[str, object]] | None, usage_wanted: bool
) -> None:
    message: dict[str, object] = {"role": "assistant", "content": content}
    if calls:
        message["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    document = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3},
    }
    again = msgspec.json.decode(
        fold_chunks(unfold(msgspec.json.encode(document), usage_wanted=usage_wanted))
    )
    assert again["choices"] == document["choices"]
    assert again.get("usage") == (document["usage"] if usage_wanted else None)


def test_what_is_no_json_is_not_folded() -> None:
    with pytest.raises(msgspec.DecodeError):
        fold_chunks(b"data: {\n\n")
