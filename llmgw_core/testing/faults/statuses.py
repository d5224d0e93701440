"""Faults that an upstream speaks of: error statuses, in the forms that providers give them."""

from __future__ import annotations

import datetime as dt
from email.utils import format_datetime
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.testing.faults.performance import documented
from llmgw_core.testing.model_server import JSON

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.faults.performance import Ask, Performance

    Make = Callable[[Ask], Performance]
    Headers = tuple[tuple[bytes, bytes], ...]

HTML = ((b"content-type", b"text/html; charset=utf-8"),)
PAGE = b"<!doctype html><html><head><title>Bad Gateway</title></head><body>nginx</body></html>"
_LATER = 2
"""Seconds until dated limits are over: whole seconds are all that a date has."""


def error(message: str, kind: str = "server_error", code: str | None = None) -> bytes:
    """OpenAI's error envelope."""
    inside = {"message": message, "type": kind, "param": None, "code": code}
    return msgspec.json.encode({"error": inside})


def status(
    number: int,
    message: str = "Something went wrong.",
    kind: str = "server_error",
    code: str | None = None,
    headers: Headers = (),
) -> Make:
    """An error status with OpenAI's envelope."""
    body = error(message, kind, code)
    return lambda ask: documented(body, status=number, headers=JSON + headers)


def refused(number: int, message: str, code: str) -> Make:
    """A request that is at fault itself."""
    return status(number, message, "invalid_request_error", code)


def limited(*headers: tuple[bytes, bytes]) -> Make:
    """429 with these headers."""
    return status(429, "Slow down.", "rate_limit_error", "rate_limit_exceeded", tuple(headers))


def limited_until_date(ask: Ask) -> Performance:
    """429 with an HTTP date."""
    moment = dt.datetime.fromtimestamp(int(ask.now) + _LATER, dt.UTC)
    when = format_datetime(moment, usegmt=True).encode()
    return limited((b"retry-after", when))(ask)


def limited_until_epoch(ask: Ask) -> Performance:
    """429 with a moment in seconds since the epoch, as some gateways give it."""
    when = b"%d" % (int(ask.now) + _LATER)
    return limited((b"x-ratelimit-remaining", b"0"), (b"x-ratelimit-reset", when))(ask)


def page(number: int) -> Make:
    """An HTML page, as a proxy on the way would send it."""
    return lambda ask: documented(PAGE, status=number, headers=HTML)
