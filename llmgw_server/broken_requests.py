"""What a client gets whose bytes are no request: an envelope, like every other refusal.

Servers find such bytes before any application is asked, and answer in plain text or with nothing
at all; both of ours are taught to answer with this instead. The connection ends with it, since
nobody can know where the next request would begin.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from llmgw_core.wire.envelope import error_body, error_headers

if TYPE_CHECKING:
    from llmgw_core.domain.errors import GatewayError

_AUTHORITY = re.compile(rb"https?://[^/?#]*", re.IGNORECASE)


def refusal(error: GatewayError, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of the last reply on a connection."""
    body = error_body(error, request_id)
    headers = [
        *error_headers(error, request_id),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    return headers, body


def origin_form(target: bytes) -> bytes:
    """A target as a path: `http://host/path`, which servers have to take (RFC 9112, section
    3.2.2), without its beginning; whatever else is no path as one that leads nowhere."""
    authority = _AUTHORITY.match(target)
    path = target[authority.end() :] if authority is not None else target
    return path if path.startswith(b"/") else b"/" + path
