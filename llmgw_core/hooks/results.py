"""Whether what a plugin returned or raised is what its type promises. Structs do not look at what
they are made of, and rubbish that is not caught here would break the gateway where nobody expects
it: in the reply, or on the books."""

from __future__ import annotations

import inspect
import math
import re
from typing import Any, Final

import msgspec

from llmgw_core.domain.access import Level, Principal
from llmgw_core.domain.call import Head
from llmgw_core.domain.errors import GatewayError
from llmgw_core.domain.reply import Reply
from llmgw_core.domain.usage import Usage
from llmgw_core.wire.request import RequestView

_NAME: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NO_VALUE: Final = re.compile(rb"[\r\n\0]")


def soundness(result: Any) -> str:
    """What is wrong with a result of a hook, or with the `GatewayError` that it raised; empty
    when nothing is."""
    if isinstance(result, GatewayError):
        return _error(result)
    if isinstance(result, str):
        return "" if _is_text(result) else "that is no Unicode text"
    if isinstance(result, Reply):
        return _reply(result)
    if isinstance(result, Head):
        return _head(result)
    if isinstance(result, RequestView):
        return _request(result)
    if isinstance(result, Principal):
        return _principal(result)
    if inspect.iscoroutinefunction(getattr(result, "close", None)):  # of a stream filter
        return "whose close is a coroutine, which nobody would await"
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
    if not isinstance(head.headers, (tuple, list)) or not all(map(_is_pair, head.headers)):
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


def _error(error: Any) -> str:
    if type(error.status) is not int or not 400 <= error.status <= 599:
        return "whose status is no HTTP error"
    if not all(_is_text(text) for text in (error.code, error.message, error.type)):
        return "whose code, message or type is no text"
    if not (error.param is None or _is_text(error.param)):
        return "whose param is no text"
    after, again = error.retry_after, error.should_retry
    if not (after is None or (isinstance(after, (int, float)) and math.isfinite(after))):
        return "whose retry_after is no number of seconds"
    if not (again is None or isinstance(again, bool)):
        return "whose should_retry is neither true nor false"
    return "" if _are_fields(error.headers) else "whose headers are no header fields"


def _are_fields(headers: Any) -> bool:
    return isinstance(headers, (tuple, list)) and all(
        _is_pair(field) and _NAME.fullmatch(field[0]) and not _NO_VALUE.search(field[1])
        for field in headers
    )


def _is_pair(field: Any) -> bool:
    return (
        isinstance(field, tuple)
        and len(field) == 2
        and isinstance(field[0], bytes)
        and isinstance(field[1], bytes)
    )


def _is_text(value: Any) -> bool:
    """Half a surrogate pair is in a `str`, but in no reply."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
