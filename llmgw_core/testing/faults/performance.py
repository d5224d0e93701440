"""What an upstream does with one request, as a value: the bytes it sends, how, and what then.

A fault is a function from what was asked to a `Performance`, so that what goes over the wire is
decided before any socket is touched, and can be looked at in a test.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import msgspec

from llmgw_core.testing.model_server import JSON, SSE
from llmgw_core.testing.upstream import chunk, chunked_head, http_reply

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Then = Literal["next", "close", "reset", "hold"]
"""`next`: wait for the next request. `close`: FIN. `reset`: RST. `hold`: say nothing more, until
the client gives up."""


class Ask(msgspec.Struct, frozen=True):
    """One request, and what a good answer to it is: `document`, or `events` if it wants a
    stream. `now` is in seconds since the epoch; `pause` is how long, in seconds, faults wait that
    are slow and not silent."""

    stream: bool
    document: bytes
    events: tuple[bytes, ...] = ()
    now: float = 0.0
    pause: float = 0.25

    @property
    def leading(self) -> tuple[bytes, ...]:
        """The events before the first content."""
        return self.events[: next((i for i, one in enumerate(self.events) if words(one)), 0)]

    @property
    def begun(self) -> tuple[bytes, ...]:
        """The events up to and including the first content."""
        return self.events[: len(self.leading) + 1]


class Piece(msgspec.Struct, frozen=True):
    """What is written at once, `pause` seconds after the piece before. `tokens` of the answer
    are in it, and `usage` if it reports them."""

    data: bytes
    tokens: int = 0
    usage: dict[str, int] | None = None
    pause: float = 0.0


class Performance(msgspec.Struct, frozen=True):
    """`pieces` in their order, then `then`, `wait` seconds later. With a `size`, pieces are written
    in parts of so many bytes. `status` is what the reply says, 0 if it is none."""

    pieces: tuple[Piece, ...] = ()
    then: Then = "next"
    status: int = 200
    size: int = 0
    wait: float = 0.0

    @property
    def data(self) -> bytes:
        """Everything that is sent."""
        return b"".join(piece.data for piece in self.pieces)

    def stopped(self, at: int, then: Then) -> Performance:
        """The same up to byte `at` of the reply, head included, and then something else."""
        kept: list[Piece] = []
        for piece in self.pieces:
            if at <= 0:
                break
            whole = len(piece.data) <= at
            kept.append(piece if whole else Piece(piece.data[:at], pause=piece.pause))
            at -= len(piece.data)
        return msgspec.structs.replace(self, pieces=tuple(kept), then=then)


def good(ask: Ask) -> Performance:
    """The answer that was asked for."""
    if ask.stream:
        return streamed(ask.events)
    return documented(ask.document)


def documented(
    body: bytes,
    *,
    status: int = 200,
    headers: Sequence[tuple[bytes, bytes]] = JSON,
    length: int | None = None,
    then: Then = "next",
) -> Performance:
    """A complete reply with `body`; `length` is what the head says of it if that is a lie."""
    whole = http_reply(status, body, headers)
    head = whole[: len(whole) - len(body)]
    if length is not None:
        head = head.replace(b"content-length: %d" % len(body), b"content-length: %d" % length)
    told = usage_of(body) if status == 200 else None
    tokens = told.get("completion_tokens", 0) if told else 0
    pieces = (Piece(head), *((Piece(body, tokens, told),) if body else ()))
    return Performance(pieces, then, status)


def streamed(
    events: Iterable[bytes], *, end: bool = True, then: Then = "next", pause: float = 0.0
) -> Performance:
    """A stream of `events`, `pause` seconds before the first one. Without `end` the body stays
    open, so that whatever comes `then` cuts it."""
    pieces = [Piece(chunked_head(200, SSE))]
    for event in events:
        first = len(pieces) == 1
        usage = usage_of(event.partition(b"data: ")[2])
        pieces.append(Piece(chunk(event), words(event), usage, pause if first else 0.0))
    if end:
        pieces.append(Piece(chunk(b"")))
    return Performance(tuple(pieces), then)


def words(event: bytes) -> int:
    """1 if the event carries a part of the answer, else 0: upstreams send a token at a time."""
    choices = _decoded(event.partition(b"data: ")[2]).get("choices") or ()
    deltas = [choice.get("delta") or {} for choice in choices if isinstance(choice, dict)]
    return int(any(delta.get("content") or delta.get("tool_calls") for delta in deltas))


def usage_of(document: bytes) -> dict[str, int] | None:
    """OpenAI's usage object in a reply or an event, if there is one."""
    usage = _decoded(document).get("usage")
    return usage if isinstance(usage, dict) else None


def _decoded(document: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}
