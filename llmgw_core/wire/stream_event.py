"""One event of a streamed chat, as stream filters see it: decoded once, and still its own bytes.

Events are immutable. One that nobody changes leaves as the bytes that came; a change makes a new
event, in which only what was changed is written anew (`msgspec.Raw` keeps the rest).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from llmgw_core.wire.sse import data_event, event_data
from llmgw_core.wire.usage import read_usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmgw_core.domain.usage import Usage

UNREADABLE: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What making an event out of bytes that are no chat chunk raises."""


class StreamChoice(msgspec.Struct, frozen=True):
    """One choice of a chunk. `delta` is decoded as it came; do not change it."""

    index: int = 0
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The piece of `content`; "" if there is none."""
        content = self.delta.get("content") if self.delta else None
        return content if isinstance(content, str) else ""

    @property
    def substantial(self) -> bool:
        """Whether it says anything: more than a role, or the end."""
        if self.finish_reason:
            return True
        return any(value for key, value in (self.delta or {}).items() if key != "role")


class _Chunk(msgspec.Struct):
    choices: tuple[StreamChoice, ...] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(_Chunk).decode
_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_choices = msgspec.json.Decoder(list[dict[str, msgspec.Raw]]).decode
_maybe_fields = msgspec.json.Decoder(dict[str, msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode
_index = msgspec.json.Decoder(int).decode
_NULL = msgspec.Raw(b"null")
_BLANK_LINE = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n", b"\n\r")


class StreamEvent:
    """A chat chunk in its server-sent event."""

    __slots__ = ("_chunk", "_raw")

    def __init__(self, raw: bytes) -> None:
        """`raw` is the whole event with its blank line. Raises one of `UNREADABLE` on what is
        no event, or no chunk."""
        if not raw.endswith(_BLANK_LINE):
            raise msgspec.DecodeError("the blank line behind the event is missing")
        self._raw = raw
        self._chunk = _decode(event_data(raw) or b"")

    @property
    def raw(self) -> bytes:
        """The whole event with its blank line."""
        return self._raw

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> StreamEvent:
        """The event of a chunk that a filter has made itself."""
        return cls(data_event(_encode(document)))

    @property
    def choices(self) -> tuple[StreamChoice, ...]:
        """The choices; none in a chunk that carries the usage only."""
        return self._chunk.choices or ()

    @property
    def usage(self) -> Usage | None:
        """The usage, if the chunk carries it and the client asked for it."""
        return read_usage(self._chunk.usage)

    @property
    def substantial(self) -> bool:
        """Whether it says anything to the client: text, tool calls, reasoning, or the end."""
        return any(choice.substantial for choice in self.choices)

    def to_dict(self) -> dict[str, Any]:
        """The chunk, decoded anew: the caller's own to change."""
        document: dict[str, Any] = msgspec.json.decode(event_data(self.raw) or b"")
        return document

    def with_delta(self, index: int, changes: Mapping[str, Any]) -> StreamEvent:
        """A copy whose choice `index` has these fields in its delta; None removes a field. The
        choice's `logprobs` go too: they spell the text that was there before."""
        document = _fields(event_data(self.raw) or b"")
        choices = _choices(document["choices"])
        for choice in choices:
            if (_index(choice["index"]) if "index" in choice else 0) != index:
                continue
            delta = _maybe_fields(choice.get("delta", _NULL)) or {}
            for name, value in changes.items():
                if value is None:
                    delta.pop(name, None)
                else:
                    delta[name] = msgspec.Raw(_encode(value))
            choice["delta"] = msgspec.Raw(_encode(delta))
            if "logprobs" in choice:
                choice["logprobs"] = _NULL
        document["choices"] = msgspec.Raw(_encode(choices))
        return StreamEvent(data_event(_encode(document)))

    def saying(self, index: int, delta: Mapping[str, Any]) -> StreamEvent:
        """A further event of the same reply: choice `index` says `delta`, and nothing else."""
        document = self.to_dict()
        document.pop("usage", None)
        choice = {"index": index, "delta": dict(delta), "finish_reason": None}
        return StreamEvent.of({**document, "choices": [choice]})


def read_event(raw: bytes) -> StreamEvent | None:
    """The chunk in an event; None for a comment or an event without data, which carry none.
    Raises one of `UNREADABLE`."""
    data = event_data(raw)
    return None if data is None or not data.strip() else StreamEvent(raw)
