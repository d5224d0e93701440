"""Faults of what a 200 contains: no JSON, not all of it, an error, or the wrong kind of reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_core.testing.faults.performance import Performance, documented, streamed
from llmgw_core.testing.faults.statuses import PAGE, error
from llmgw_core.testing.model_server import JSON, SSE

if TYPE_CHECKING:
    from llmgw_core.testing.faults.performance import Ask

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
    data = b"".join(ask.begun) if ask.stream else ask.document
    kind = SSE if ask.stream else JSON
    return documented(data, headers=kind, length=len(data) + 100, then="close")


def long_body(ask: Ask) -> Performance:
    """More bytes than the head says: what is read is not all of it."""
    data = b"".join(ask.events) if ask.stream else ask.document
    kept = len(b"".join(ask.begun)) if ask.stream else len(data) // 2
    kind = SSE if ask.stream else JSON
    return documented(data, headers=kind, length=kept, then="close")


def error_in_200(ask: Ask) -> Performance:
    """A JSON reply that is an error."""
    return documented(error("The engine has died."))


def document_for_stream(ask: Ask) -> Performance:
    """A complete reply, whatever was asked for."""
    return documented(ask.document)


def stream_for_document(ask: Ask) -> Performance:
    """Events, whatever was asked for."""
    return streamed(ask.events)
