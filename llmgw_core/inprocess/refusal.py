"""OpenAI's error envelope read back: an exception for the application.

The counterpart of `wire.envelope`. A refusal may also be an upstream's own words about the
request, so nothing of its shape is taken for granted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.errors import GatewayError, upstream_failed

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATUS = {"invalid_request_error": 400, "permission_error": 403, "rate_limit_error": 429}
"""The status that an error inside a stream would have had before the stream began."""


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """The error in a reply that is not 200."""
    try:
        envelope = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        envelope = None
    error = _error(status, envelope)
    error.request_id = headers.get("x-request-id", "")
    error.retry_after = _seconds(headers.get("retry-after"))
    should_retry = headers.get("x-should-retry")
    error.should_retry = None if should_retry is None else should_retry == "true"
    return error


def stream_error(envelope: Mapping[str, Any], request_id: str) -> GatewayError:
    """The error in an event that ends a stream before its time."""
    error = _error(0, envelope)
    error.status = _STATUS.get(error.type, 502)
    error.request_id = request_id
    return error


def unreadable(request_id: str) -> GatewayError:
    """502: a reply that is not what the endpoint promises, by an upstream or a plugin."""
    error = upstream_failed("The model's reply cannot be read.")
    error.request_id = request_id
    return error


def closed() -> GatewayError:
    """503: the gateway was closed by the application."""
    return GatewayError(503, "gateway_closed", "The gateway is closed.", type="server_error")


def _error(status: int, envelope: object) -> GatewayError:
    inner = envelope.get("error") if isinstance(envelope, dict) else None
    fields: dict[str, Any] = inner if isinstance(inner, dict) else {"message": inner}
    return GatewayError(
        status,
        str(fields.get("code") or "error"),
        str(fields.get("message") or f"The request was refused with status {status}."),
        type=str(fields.get("type") or "invalid_request_error"),
        param=fields.get("param") if isinstance(fields.get("param"), str) else None,
    )


def _seconds(value: str | None) -> float | None:
    return float(value) if value is not None and value.isdecimal() else None
