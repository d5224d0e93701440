"""Reading chat replies and chunks in OpenAI's form, as deep as the gateway needs and no deeper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.wire.sse import data_event
from llmgw_core.wire.usage import read_usage

if TYPE_CHECKING:
    from llmgw_core.domain.usage import Usage


class _Choice(msgspec.Struct):
    index: int | float | None = None
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """A streamed chunk. `choices` stay raw until somebody asks for their content."""

    choices: list[msgspec.Raw] | None = None
    object: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")
    x_groq: msgspec.Raw = msgspec.Raw(b"")


class _Groq(msgspec.Struct):
    usage: msgspec.Raw = msgspec.Raw(b"")


class Document(msgspec.Struct):
    """A complete reply: chat completion (`choices`) or embeddings (`data`)."""

    choices: list[msgspec.Raw] | None = None
    data: msgspec.Raw = msgspec.Raw(b"")
    usage: msgspec.Raw = msgspec.Raw(b"")
    error: msgspec.Raw = msgspec.Raw(b"")


decode_chunk = msgspec.json.Decoder(Chunk).decode
decode_document = msgspec.json.Decoder(Document).decode
_decode_choice = msgspec.json.Decoder(_Choice).decode
_decode_groq = msgspec.json.Decoder(_Groq).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode

NULLS = (b"", b"null")


def present(raw: msgspec.Raw) -> bool:
    """Whether a raw value is there and not null."""
    return bytes(raw) not in NULLS


def chunk_usage(chunk: Chunk) -> Usage | None:
    """What a chunk says about usage, if anything; Groq has a place of its own for it."""
    if present(chunk.usage):
        return read_usage(chunk.usage)
    if present(chunk.x_groq):
        try:
            return read_usage(_decode_groq(chunk.x_groq).usage)
        except (msgspec.DecodeError, RecursionError):
            pass  # another member of that name
    return None


def without_usage(event: bytes, data: bytes) -> bytes:
    """The `event` of the chunk `data` without its usage, for a client that did not ask for it."""
    fields = _decode_fields(data)
    fields.pop("usage", None)
    other = [line for line in event.splitlines() if line and not line.startswith(b"data")]
    return b"".join([line + b"\n" for line in other]) + data_event(_encode(fields))


def text_bytes(value: Any) -> int:
    """UTF-8 bytes of all text in a delta or message: content, reasoning, refusal, tool calls."""
    if isinstance(value, str):
        return len(value.encode("utf-8", "surrogatepass"))
    if isinstance(value, list):
        return sum(text_bytes(item) for item in value)
    if isinstance(value, dict):
        return sum(text_bytes(item) for key, item in value.items() if key not in _NOT_TEXT)
    return 0


_NOT_TEXT = frozenset({"role", "id", "type", "index"})


class ChoiceFacts(msgspec.Struct, frozen=True):
    """What one choice says: bytes of produced text, whether it carries any content at all, whether
    it is finished, and which one it is.
    """

    text: int
    content: bool
    finished: bool
    index: int = 0


def read_choice(raw: msgspec.Raw) -> ChoiceFacts:
    """Read one choice of a chunk or of a reply. Raises `msgspec.DecodeError`."""
    choice = _decode_choice(raw)
    body = choice.delta or choice.message or {}
    content = any(value for key, value in body.items() if key != "role")
    return ChoiceFacts(
        text_bytes(body), content, bool(choice.finish_reason), int(choice.index or 0)
    )
