"""A stream of chat chunks folded into the complete reply that it amounts to, and back.

For whoever can only judge complete replies: text of equal fields is concatenated, tool calls are
merged by their index, `logprobs` are gathered, and the last value of anything else wins, as
OpenAI's own clients do it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llmgw_core.wire.sse import EventSplitter, event_data

_WHOLE = frozenset({"role", "id", "type", "name"})
"""Fields of a delta that arrive in one piece: repeating one does not append to it."""

_ODD_SHAPE = (AttributeError, TypeError, ValueError, RecursionError)
"""What walking through somebody's JSON raises when a value has another type than it should."""


def fold_chunks(stream: bytes) -> bytes:
    """The body of the complete reply. `stream` holds whole events; the end marker, comments and
    empty events mean nothing. Raises `msgspec.DecodeError` on an event that is no chunk."""
    try:
        return _folded(stream)
    except _ODD_SHAPE as error:
        raise msgspec.ValidationError(f"not a stream of chunks: {error}") from error


def unfold(body: bytes, *, usage_wanted: bool) -> bytes:
    """A complete chat completion as a stream: one chunk with content and finish, then one with
    the usage if it was asked for. The inverse of `fold_chunks`; the end marker is not included.
    Raises `msgspec.DecodeError` on a body that is no chat completion."""
    try:
        return _unfolded(body, usage_wanted)
    except _ODD_SHAPE as error:
        raise msgspec.ValidationError(f"not a chat completion: {error}") from error


def _folded(stream: bytes) -> bytes:
    document: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for event in EventSplitter().feed(stream):
        data = event_data(event)
        if data is None or not data.strip() or data.strip() == b"[DONE]":
            continue
        chunk = msgspec.json.decode(data, type=dict[str, Any])
        for choice in chunk.pop("choices", None) or ():
            _merge_choice(choices.setdefault(choice.get("index", 0), {}), choice)
        document.update({key: value for key, value in chunk.items() if value is not None})
    document["object"] = "chat.completion"
    document["choices"] = [choices[index] for index in sorted(choices)]
    return msgspec.json.encode(document)


def _unfolded(body: bytes, usage_wanted: bool) -> bytes:
    document = msgspec.json.decode(body, type=dict[str, Any])
    base = {key: value for key, value in document.items() if key not in ("choices", "usage")}
    base["object"] = "chat.completion.chunk"
    choices = []
    for choice in document.get("choices") or ():
        delta = dict(choice.pop("message", None) or {})
        for index, tool_call in enumerate(delta.get("tool_calls") or ()):
            tool_call.setdefault("index", index)
        choices.append({**choice, "delta": delta})
    events = [{**base, "choices": choices}]
    if usage_wanted:
        events.append({**base, "choices": [], "usage": document.get("usage")})
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)


def _merge_choice(whole: dict[str, Any], choice: dict[str, Any]) -> None:
    message = whole.setdefault("message", {"role": "assistant", "content": None})
    for key, value in choice.items():
        if key == "delta":
            _merge_delta(message, value or {})
        elif key == "logprobs" and value and whole.get(key):
            _merge_delta(whole[key], value)
        elif value is not None or key not in whole:
            whole[key] = value


def _merge_delta(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if value is None:
            message.setdefault(key, None)
        elif key == "tool_calls":
            calls = message["tool_calls"] = message.get("tool_calls") or []
            for part in value:
                _merge_tool_call(calls, part)
        elif isinstance(value, str) and isinstance(message.get(key), str) and key not in _WHOLE:
            message[key] += value
        elif isinstance(value, dict) and isinstance(message.get(key), dict):
            _merge_delta(message[key], value)
        elif isinstance(value, list) and isinstance(message.get(key), list):
            message[key].extend(value)
        else:
            message[key] = value


def _merge_tool_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index", len(calls))
    for call in calls:
        if call.get("index") == index:
            _merge_delta(call, part)
            return
    calls.append({**part, "index": index})
