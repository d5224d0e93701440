"""The one place where an error becomes a reply: OpenAI's envelope and its headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.errors import GatewayError

_encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")
_ROUNDING: Final = 1e-6
"""Seconds. A time to wait is a difference of two readings of a clock, which may come out a little
more than it is: that is no reason to wait for another second."""


def error_object(error: GatewayError, request_id: str) -> dict[str, object]:
    """`{"error": {...}}` with OpenAI's four fields and the request id."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
            "request_id": request_id,
        }
    }


def error_body(error: GatewayError, request_id: str) -> bytes:
    """The body of an error reply."""
    return _encode(error_object(error, request_id))


def error_event(error: GatewayError, request_id: str) -> bytes:
    """The SSE event that truthfully ends a stream which cannot go on. No `[DONE]` follows."""
    return b"data: " + error_body(error, request_id) + b"\n\n"


def error_headers(error: GatewayError, request_id: str) -> list[tuple[bytes, bytes]]:
    """The head fields of an error reply, content length not included. `retry-after` (RFC 9110,
    section 10.2.3) is in whole seconds, rounded up, since a client that comes back early is refused
    again.
    """
    headers = [JSON, (b"x-request-id", request_id.encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after - _ROUNDING))))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    headers.extend(error.headers)
    return headers
