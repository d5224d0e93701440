"""Server-sent events, sans-IO: bytes in, whole events out, whatever the chunking.

The framing is that of the WHATWG HTML standard, section "Server-sent events": lines end with
LF, CR or CRLF; a blank line ends an event; lines that start with a colon are comments.
Events keep their own bytes, terminator included, so that they can be forwarded untouched.
"""

from __future__ import annotations

import re

# A line end followed by a blank line. `\r(?!\n)` keeps CRLF from being read as two line ends.
# A CR at the very end of what has arrived may be half of a CRLF. Behind a line that ended with LF
# or CRLF it most likely is, and the event waits for its other half. Behind a line that ended with
# CR it is not, and the event is given out; an LF that follows becomes an empty line in front of
# the next event, which means nothing.
_BOUNDARY = re.compile(
    rb"(?:\r\n|\n)(?:\r\n|\n|\r(?!\Z))|\r(?!\n)(?:\r\n|\n|\r)",
)
_BOM = b"\xef\xbb\xbf"

MAX_EVENT = 16 * 1024 * 1024
"""Bytes that one event may have."""


class EventTooLarge(ValueError):
    """An event grew beyond `MAX_EVENT`."""


class EventSplitter:
    """Cuts a byte stream into whole events."""

    __slots__ = ("_middle", "_rest", "_size", "_started")

    def __init__(self) -> None:
        self._rest = b""
        self._middle: list[bytes] = []
        self._size = 0
        self._started = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete now, each with its terminator."""
        if not self._started:
            self._started = True
            data = data.removeprefix(_BOM)
        rest = self._rest
        if rest:
            if rest[-1:] != b"\r" and b"\n" not in data and b"\r" not in data:
                # The middle of a large event: joining it piece by piece would be quadratic.
                self._middle.append(data)
                self._size += len(data)
                if self._size > MAX_EVENT:
                    raise EventTooLarge
                return []
            if self._middle:
                rest = b"".join((rest, *self._middle))
                self._middle.clear()
            data = rest + data
        scanned = len(rest)
        if b"\r" not in data:
            return self._feed_lf(data)
        events = []
        start = 0
        # Three bytes back: the longest beginning of a boundary that may already have been seen.
        at = max(0, scanned - 3)
        while found := _BOUNDARY.search(data, at):
            at = found.end()
            events.append(data[start:at])
            start = at
        self._keep(data[start:])
        return events

    def _feed_lf(self, data: bytes) -> list[bytes]:
        events = [part + b"\n\n" for part in data.split(b"\n\n")]
        self._keep(events.pop()[:-2])
        return events

    def _keep(self, rest: bytes) -> None:
        if len(rest) > MAX_EVENT:
            raise EventTooLarge
        self._rest = rest
        self._size = len(rest)

    @property
    def clean(self) -> bool:
        """True when no part of an event is waiting for its end."""
        return not self._rest

    def flush(self) -> bytes:
        """What is left without its terminator, at the end of the body."""
        rest = b"".join((self._rest, *self._middle))
        self._rest = b""
        self._middle.clear()
        return rest


def event_data(event: bytes) -> bytes | None:
    """The data of an event: its `data` lines joined with LF; None if it has none."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [
        line[5:].removeprefix(b" ")
        for line in event.splitlines()
        if line.startswith(b"data:") or line == b"data"
    ]
    return b"\n".join(lines) if lines else None


def data_event(data: bytes) -> bytes:
    """The event with this data. Where it has line ends, which JSON may have between its parts, it
    has as many `data` lines."""
    if b"\n" not in data and b"\r" not in data:
        return b"data: %b\n\n" % data
    return b"".join(b"data: %b\n" % line for line in data.splitlines()) + b"\n"


def event_name(event: bytes) -> bytes:
    """The last `event` field, b"" if there is none (then it is a `message`)."""
    name = b""
    for line in event.splitlines():
        if line.startswith(b"event:"):
            name = line[6:].removeprefix(b" ")
    return name
