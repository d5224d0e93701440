"""Faults of the connection and of HTTP: lost, silent, slow, or not HTTP at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.testing.faults.performance import Performance, Piece, good
from llmgw_core.testing.model_server import JSON, SSE
from llmgw_core.testing.upstream import chunk

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.testing.faults.performance import Ask, Then

    Make = Callable[[Ask], Performance]

_HUGE = 256 * 1024
"""Bytes of a header line that nobody takes."""


def silent(then: Then) -> Make:
    """Nothing is answered."""
    return lambda ask: Performance((), then, 0)


def saying(data: bytes, then: Then = "close") -> Make:
    """Something that is no HTTP."""
    return lambda ask: Performance((Piece(data),), then, 0)


def within_head(then: Then) -> Make:
    """Half of the head."""
    return lambda ask: good(ask).stopped(len(good(ask).pieces[0].data) // 2, then)


def after_head(then: Then) -> Make:
    """The head and nothing of the body."""
    return lambda ask: good(ask).stopped(len(good(ask).pieces[0].data), then)


def at_byte(position: int, then: Then) -> Make:
    """As much of the good answer as `position` bytes, the head included."""
    return lambda ask: good(ask).stopped(position, then)


def trickling(ask: Ask) -> Performance:
    """The good answer, byte by byte."""
    return msgspec.structs.replace(good(ask), size=1)


def slow_head(ask: Ask) -> Performance:
    """The good answer after a pause."""
    first, *others = good(ask).pieces
    return Performance((msgspec.structs.replace(first, pause=ask.pause), *others))


def slow_first_token(ask: Ask) -> Performance:
    """The head at once, the rest after a pause."""
    head, first, *others = good(ask).pieces
    return Performance((head, msgspec.structs.replace(first, pause=ask.pause), *others))


def huge_head(ask: Ask) -> Performance:
    """A header line that is larger than any cap."""
    head, *body = good(ask).pieces
    line = b"x-huge: " + b"x" * _HUGE + b"\r\n"
    return Performance((Piece(head.data[:-2] + line + b"\r\n"), *body), "close")


def broken_chunks(ask: Ask) -> Performance:
    """A chunked body that stops being one."""
    kind = SSE if ask.stream else JSON
    lines = b"".join(b"%b: %b\r\n" % line for line in kind)
    head = Piece(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n" + lines + b"\r\n")
    first = b"".join(ask.begun) if ask.stream else ask.document[: len(ask.document) // 2]
    broken = Piece(b"oops\r\n", pause=ask.pause if ask.stream else 0.0)
    return Performance((head, Piece(chunk(first), int(ask.stream)), broken), "close")
