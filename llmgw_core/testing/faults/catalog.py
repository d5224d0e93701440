"""Everything that the upstream can do wrong, by name, and what it means for whoever calls it.

The table is the documentation: `llmgw-server faults --list` prints it. Besides the names in it
there are `reset@N`, `close@N` and `stall@N` (at byte N of the reply, its head included) and any
status from 400 to 599.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

import msgspec

from llmgw_core.testing.faults import bodies, connections, statuses, streams
from llmgw_core.testing.faults.performance import good

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.faults.performance import Ask, Performance, Then

Effect = Literal["delivers", "fails", "refuses", "cuts"]
"""What a caller can make of it. `delivers`: the whole answer. `fails`: nothing of it, so that
somebody else may be asked. `refuses`: the request is said to be at fault. `cuts`: a part of the
answer, and no more."""

OK = "ok"
REFUSE = "refuse"


class Fault(msgspec.Struct, frozen=True):
    """One thing that can go wrong. `stream` and `complete` are its effects on the two kinds of
    replies. `accepting`: it happens to a connection, before any request is read."""

    name: str
    summary: str
    make: Callable[[Ask], Performance]
    complete: Effect = "fails"
    stream: Effect = "fails"
    accepting: bool = False


class UnknownFault(ValueError):
    """There is no fault of that name; the text says which there are."""


def _named(*faults: Fault) -> dict[str, Fault]:
    return {fault.name: fault for fault in faults}


def _limit(name: str, summary: str, *headers: tuple[bytes, bytes]) -> Fault:
    return Fault(name, f"429 {summary}", statuses.limited(*headers))


_BROKEN: dict[str, Then] = {"reset": "reset", "close": "close", "stall": "hold"}
_POSITION = re.compile(r"(reset|close|stall)@([0-9]{1,9})")
_STATUS = re.compile(r"[45][0-9][0-9]")

_CONNECTION = (
    Fault(
        REFUSE,
        "nobody listens: connections are refused, open ones are reset; for a whole server only",
        connections.silent("reset"),
        accepting=True,
    ),
    Fault(
        "reset-on-accept",
        "the connection is reset as soon as it is there",
        connections.silent("reset"),
        accepting=True,
    ),
    Fault(
        "close-on-accept",
        "the connection is closed as soon as it is there",
        connections.silent("close"),
        accepting=True,
    ),
    Fault(
        "not-http",
        "something else than HTTP listens there, and speaks first",
        connections.saying(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        accepting=True,
    ),
    Fault(
        "tls-plain",
        "plain text is the answer to a TLS handshake; for https:// deployments",
        connections.saying(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"),
        accepting=True,
    ),
    Fault("reset", "RST instead of a reply", connections.silent("reset")),
    Fault("close", "FIN instead of a reply", connections.silent("close")),
    Fault("stall", "no reply at all, on an open connection", connections.silent("hold")),
    *(
        Fault(f"{name}-in-head", f"half of the head, then {name}", connections.within_head(then))
        for name, then in _BROKEN.items()
    ),
    *(
        Fault(f"{name}-after-head", f"the head, then {name}", connections.after_head(then))
        for name, then in _BROKEN.items()
    ),
    Fault("huge-head", "a header line of 256 KiB", connections.huge_head),
    Fault(
        "broken-chunks",
        "a chunked body that stops being one",
        connections.broken_chunks,
        stream="cuts",
    ),
    Fault(
        "trickle", "the good answer, byte by byte", connections.trickling, "delivers", "delivers"
    ),
    Fault(
        "slow-head", "the good answer after a pause", connections.slow_head, "delivers", "delivers"
    ),
    Fault(
        "slow-first-token",
        "the head at once, the first token after a pause",
        connections.slow_first_token,
        "delivers",
        "delivers",
    ),
)

_STATUSES = (
    Fault(
        "400",
        "the request is malformed",
        statuses.refused(400, "'messages' is malformed.", "invalid_value"),
        "refuses",
        "refuses",
    ),
    Fault(
        "404",
        "no such model there",
        statuses.refused(404, "The model does not exist.", "model_not_found"),
        "refuses",
        "refuses",
    ),
    Fault(
        "413",
        "too large",
        statuses.refused(413, "The request is too large.", "too_large"),
        "refuses",
        "refuses",
    ),
    Fault(
        "422",
        "a field is wrong",
        statuses.refused(422, "'temperature' is too high.", "invalid_value"),
        "refuses",
        "refuses",
    ),
    Fault(
        "context-window",
        "400 context_length_exceeded",
        statuses.refused(
            400, "The maximum context length is 4096 tokens.", "context_length_exceeded"
        ),
        "refuses",
        "refuses",
    ),
    Fault(
        "content-policy",
        "400 content_filter",
        statuses.refused(400, "The content filter was triggered.", "content_filter"),
        "refuses",
        "refuses",
    ),
    Fault(
        "401",
        "the key is wrong",
        statuses.status(401, "Incorrect API key.", "authentication_error", "invalid_api_key"),
    ),
    Fault(
        "402",
        "the account has no money",
        statuses.status(402, "Insufficient balance.", "billing_error", "insufficient_balance"),
    ),
    Fault(
        "403",
        "the key may not",
        statuses.status(403, "Not allowed.", "permission_error", "permission_denied"),
    ),
    _limit("429", "without a word about when"),
    _limit("429-seconds", "with retry-after in seconds", (b"retry-after", b"1")),
    _limit("429-ms", "with retry-after-ms", (b"retry-after-ms", b"250")),
    Fault("429-date", "429 with retry-after as an HTTP date", statuses.limited_until_date),
    _limit(
        "429-past",
        "with an HTTP date that is over",
        (b"retry-after", b"Thu, 01 Jan 1970 00:00:00 GMT"),
    ),
    _limit(
        "429-reset",
        "with x-ratelimit-reset-requests and -tokens as durations",
        (b"x-ratelimit-remaining-requests", b"0"),
        (b"x-ratelimit-reset-requests", b"1s"),
        (b"x-ratelimit-remaining-tokens", b"0"),
        (b"x-ratelimit-reset-tokens", b"120ms"),
    ),
    Fault("429-epoch", "429 with x-ratelimit-reset as epoch time", statuses.limited_until_epoch),
    _limit("429-nonsense", "with a retry-after that says nothing", (b"retry-after", b"soon")),
    _limit("429-absurd", "with a retry-after of years", (b"retry-after", b"99999999")),
    Fault("500", "an internal error", statuses.status(500)),
    Fault("502", "a bad gateway on the way", statuses.status(502)),
    Fault(
        "503",
        "overloaded",
        statuses.status(503, "Overloaded.", "overloaded_error", "overloaded"),
    ),
    Fault(
        "503-seconds",
        "overloaded, with retry-after in seconds",
        statuses.status(503, "Overloaded.", headers=((b"retry-after", b"1"),)),
    ),
    Fault("504", "slow itself", statuses.status(504)),
    Fault("529", "overloaded, as some providers say it", statuses.status(529)),
    Fault("html-404", "404 as an HTML page", statuses.page(404)),
    Fault("html-502", "502 as an HTML page", statuses.page(502)),
)

_BODIES = (
    Fault("html-200", "200 as an HTML page", statuses.page(200)),
    Fault("html-as-json", "an HTML page that says it is the reply", bodies.page_as_json),
    Fault("empty", "200 with nothing in it", bodies.empty),
    Fault("truncated-json", "JSON that ends too early, in a whole reply", bodies.truncated_json),
    Fault("broken-utf8", "text that is not UTF-8", bodies.broken_utf8),
    Fault("short-body", "fewer bytes than content-length says", bodies.short_body, stream="cuts"),
    Fault("long-body", "more bytes than content-length says", bodies.long_body, stream="cuts"),
    Fault("error-200", "a JSON error object with status 200", bodies.error_in_200),
    Fault(
        "json-for-stream",
        "a complete reply, also to who wants a stream",
        bodies.document_for_stream,
        "delivers",
        "delivers",
    ),
    Fault(
        "stream-for-json",
        "a stream, also to who wants a complete reply",
        bodies.stream_for_document,
        stream="delivers",
    ),
)

_STREAMS = (
    Fault("error-event", "an error event first", streams.error_event(after=0)),
    Fault("error-event-named", "an `event: error` first", streams.named_error),
    Fault("error-event-role", "the role, then an error event", streams.error_event(after=1)),
    Fault(
        "error-event-late",
        "the first words, then an error event",
        streams.error_event(after=2),
        stream="cuts",
    ),
    *(
        Fault(f"role-{name}", f"the role, then {name}", streams.begun_and(then, after=1))
        for name, then in _BROKEN.items()
    ),
    *(
        Fault(
            f"comments-{name}",
            f"comments that keep the connection alive, then {name}",
            streams.begun_and(then, after=0, comments=3),
        )
        for name, then in _BROKEN.items()
    ),
    *(
        Fault(
            f"{name}-late",
            f"the first words, then {name}",
            streams.begun_and(then, after=2),
            stream="cuts",
        )
        for name, then in _BROKEN.items()
    ),
    Fault("comments", "comments, then the good answer", streams.commented, "delivers", "delivers"),
    Fault("no-done", "no [DONE] at the end", streams.without_done, "delivers", "delivers"),
    Fault(
        "no-finish-reason",
        "[DONE] without a finish_reason",
        streams.without_finish(done=True),
        "delivers",
        "delivers",
    ),
    Fault(
        "no-end",
        "neither finish_reason nor [DONE]",
        streams.without_finish(done=False),
        "delivers",
        "cuts",
    ),
)

FAULTS = _named(
    Fault(OK, "nothing is wrong", good, "delivers", "delivers"),
    *_CONNECTION,
    *_STATUSES,
    *_BODIES,
    *_STREAMS,
)
"""By name."""


def fault(name: str) -> Fault:
    """The fault of that name. Raises `UnknownFault`."""
    known = FAULTS.get(name)
    if known is not None:
        return known
    if found := _POSITION.fullmatch(name):
        then = _BROKEN[found[1]]
        make = connections.at_byte(int(found[2]), then)
        return Fault(name, f"{found[2]} bytes of the reply, then {found[1]}", make, stream="cuts")
    if _STATUS.fullmatch(name):
        return Fault(name, f"status {name}", statuses.status(int(name)))
    message = (
        f"There is no fault '{name}'; there are {', '.join(FAULTS)}, reset@N, close@N and stall@N"
        " (at byte N), and the statuses 400 to 599."
    )
    raise UnknownFault(message)
