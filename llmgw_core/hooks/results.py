"""Whether what a plugin returned is what its type promises. Structs do not look at what they are
made of, and rubbish that is not caught here would break the gateway where nobody expects it."""

from __future__ import annotations

from typing import Any

import msgspec

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.reply import Reply
from llmgw_core.domain.usage import Usage
from llmgw_core.wire.request import RequestView


def soundness(result: Any) -> str:
    """What is wrong with a result of a hook; empty when nothing is."""
    if isinstance(result, Reply):
        return _reply(result)
    if isinstance(result, Head):
        return _head(result)
    if isinstance(result, RequestView):
        return _request(result)
    if isinstance(result, Principal):
        return _principal(result)
    return ""


def _reply(reply: Any) -> str:
    if not isinstance(reply.body, bytes):
        return "whose body is not bytes"
    if not (reply.usage is None or isinstance(reply.usage, Usage)):
        return "whose usage is no Usage"
    return ""


def _head(head: Any) -> str:
    if not isinstance(head.method, str) or not isinstance(head.path, str):
        return "whose method or path is no text"
    if not isinstance(head.headers, (tuple, list)) or not all(
        isinstance(field, tuple)
        and len(field) == 2
        and isinstance(field[0], bytes)
        and isinstance(field[1], bytes)
        for field in head.headers
    ):
        return "whose headers are not pairs of bytes"
    return ""


def _request(request: Any) -> str:
    if not all(
        isinstance(name, str) and isinstance(value, msgspec.Raw)
        for name, value in request.fields.items()
    ):
        return "whose fields are not msgspec.Raw by name"
    return ""


def _principal(principal: Any) -> str:
    if not isinstance(principal.levels, tuple) or not all(
        isinstance(level, Level) for level in principal.levels
    ):
        return "whose levels are no tuple of Level"
    return ""
