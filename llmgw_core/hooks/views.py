"""The decoded views that plugins declare in `needs`: made before the first plugin is asked, so that
what cannot be decoded is the fault of whoever sent it and never a failure of a plugin."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.errors import upstream_failed

if TYPE_CHECKING:
    from llmgw_core.domain.reply import Reply
    from llmgw_core.wire.request import RequestView


def decoded_request(request: RequestView) -> None:
    """Decode all of the request, once. Raises `GatewayError` 400."""
    _ = request.decoded


def decoded_reply(reply: Reply) -> None:
    """Decode all of the reply, once. Raises `GatewayError` 502."""
    try:
        _ = reply.decoded
    except (msgspec.DecodeError, RecursionError):
        raise upstream_failed("The model's backend failed.") from None
