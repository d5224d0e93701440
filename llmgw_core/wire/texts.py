"""The texts in requests, replies and streams of OpenAI's form, for those who count them.

What is no text for a model (addresses, pictures, sounds, ids, roles) is left out. Nothing in here
raises: of what has another shape, as much is found as there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.wire.sse import EventSplitter, event_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.wire.request import RequestView

_NOT_TEXT: Final = frozenset(
    {
        "role",
        "id",
        "tool_call_id",
        "type",
        "index",
        "image_url",
        "input_audio",
        "file",
        "audio",
        "url",
        "data",
    }
)
_UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


def request_texts(request: RequestView) -> list[str]:
    """What a model reads of a request: messages and tools, or the input of embeddings."""
    found: list[str] = []
    for name in ("messages", "tools", "input"):
        raw = request.fields.get(name)
        if raw is not None:
            found += _texts(raw)
    return found


def reply_texts(body: bytes) -> list[str]:
    """What a model has written in a complete chat reply."""
    return _choices(body, "message")


def stream_texts(events: bytes) -> list[str]:
    """What it has written in a stream, of which `events` are whole ones."""
    found: list[str] = []
    for event in EventSplitter().feed(events):
        data = event_data(event)
        if data is not None and data.strip() != b"[DONE]":
            found += _choices(data, "delta")
    return found


def _choices(document: bytes, part: str) -> list[str]:
    try:
        decoded = msgspec.json.decode(document)
    except _UNREADABLE:
        return []
    choices = decoded.get("choices") if isinstance(decoded, dict) else None
    found: list[str] = []
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict):
            found += _walk(choice.get(part))
    return found


def _texts(raw: msgspec.Raw) -> list[str]:
    try:
        return list(_walk(msgspec.json.decode(raw)))
    except _UNREADABLE:
        return []


def _walk(value: Any) -> Iterator[str]:
    """The texts in order. Without recursion: requests may be nested deeply."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            left.extend(reversed(value))
        elif isinstance(value, dict):
            left.extend(each for key, each in reversed(value.items()) if key not in _NOT_TEXT)
