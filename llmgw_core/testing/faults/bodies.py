"""Faults of what a 200 contains: no JSON, not all of it, an error, or the wrong kind of reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.testing.faults.performance import Performance, Piece, documented, streamed
from llmgw_core.testing.faults.statuses import PAGE, error
from llmgw_core.testing.model_server import JSON, SSE

if TYPE_CHECKING:
    from llmgw_core.testing.faults.performance import Ask

_LAST = ((b"connection", b"close"),)
"""Else what is too much could be taken for the answer to somebody else's request."""
_BAD_TEXT = b"\xff\xfe"
"""Nowhere in UTF-8."""


def page_as_json(ask: Ask) -> Performance:
    """HTML that says it is what was asked for."""
    return documented(PAGE, headers=SSE if ask.stream else JSON)


def empty(ask: Ask) -> Performance:
    """Nothing at all."""
    return streamed(()) if ask.stream else documented(b"")


def truncated_json(ask: Ask) -> Performance:
    """A document, or a first event, that ends too early, in a reply that is complete."""
    if ask.stream:
        return streamed((*ask.leading, b'data: {"choices": [{"index": 0, "del\n\n'))
    return documented(ask.document[: len(ask.document) // 2])


def broken_utf8(ask: Ask) -> Performance:
    """A text that is not UTF-8."""
    if ask.stream:
        bad = b'data: {"choices":[{"index":0,"delta":{"content":"' + _BAD_TEXT + b'"}}]}\n\n'
        return streamed((*ask.leading, bad))
    return documented(ask.document.replace(b'":"', b'":"' + _BAD_TEXT))


def short_body(ask: Ask) -> Performance:
    """Fewer bytes than the head says, then the end."""
    if ask.stream:
        return _lengthy(ask.begun, (), 100, ask.pause)
    return documented(ask.document, length=len(ask.document) + 100, then="close")


def long_body(ask: Ask) -> Performance:
    """More bytes than the head says: what is read is not all of it."""
    if ask.stream:
        return _lengthy(ask.begun, ask.events[len(ask.begun) :], 0, ask.pause)
    half = len(ask.document) // 2
    return documented(ask.document, headers=JSON + _LAST, length=half, then="close")


def _lengthy(
    begun: tuple[bytes, ...], rest: tuple[bytes, ...], missing: int, pause: float
) -> Performance:
    """A stream whose head promises `begun` and `missing` bytes more; `rest` comes later."""
    data, surplus = b"".join(begun), b"".join(rest)
    told = documented(data, headers=SSE + _LAST, length=len(data) + missing, then="close")
    pieces = [told.pieces[0], Piece(data, tokens=1)]
    if surplus:
        pieces.append(Piece(surplus, pause=pause))
    return Performance(tuple(pieces), "close", wait=0.0 if surplus else pause)


def error_in_200(ask: Ask) -> Performance:
    """A JSON reply that is an error."""
    return documented(error("The engine has died."))


def document_for_stream(ask: Ask) -> Performance:
    """A complete reply, whatever was asked for."""
    return documented(ask.document)


def stream_for_document(ask: Ask) -> Performance:
    """Events, whatever was asked for."""
    return streamed(ask.events)
