"""The one place where an error becomes a reply: OpenAI's envelope and its headers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from llmgw_core.domain.errors import GatewayError

_encode = msgspec.json.Encoder().encode
JSON = (b"content-type", b"application/json")


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
    """The head fields of an error reply, content length not included. `retry-after` is in whole
    seconds, rounded up, since a client that comes back early is refused again.
    """
    headers = [JSON, (b"x-request-id", request_id.encode())]
    if error.retry_after is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after))))
    if error.should_retry is not None:
        headers.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
    headers.extend(error.headers)
    return headers
