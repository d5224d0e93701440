"""The reply of one exchange as the parser reports it: framing, caps, what may be kept.

Sans-IO: bytes in by `_feed`, state out by attributes. The parser (llhttp) is strict about
chunk sizes and conflicting lengths; what it leaves open is decided here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import httptools
import msgspec

if TYPE_CHECKING:
    from llmgw_core.backends.transport.port import TransportKind, TransportPhase

IDLE: Final = 0
"""No exchange runs."""
HEAD: Final = 1
"""A request was started, the head of its final reply has not come."""
BODY: Final = 2
"""The head has come, the end of the body has not."""
DONE: Final = 3
"""The whole reply has been received, perhaps not yet read."""


class Caps(msgspec.Struct, frozen=True):
    """Sizes in bytes; `headers` is a number of header lines."""

    head: int
    headers: int
    high_water: int


class _StopParsingError(Exception):
    """Leaves the parser; the reason is recorded on the connection."""


class ReplyParsing:
    """State of the current reply and the parser's callbacks into it. `failure` is set when the
    reply breaks a rule; `keep` says whether the peer lets the connection live."""

    __slots__ = (
        "_caps",
        "_feed",
        "_head_bytes",
        "_head_only",
        "_noise",
        "_parser",
        "_received",
        "_size",
        "_until_close",
        "failure",
        "headers",
        "keep",
        "parts",
        "phase",
        "status",
    )

    def __init__(self, caps: Caps) -> None:
        self._caps = caps
        self._new_parser()
        self.keep = False
        self.status = 0
        self.parts: list[bytes] = []
        self.failure: tuple[TransportKind, TransportPhase, str] | None = None
        self._expect_reply(head_only=False)
        self.phase = IDLE

    def _expect_reply(self, *, head_only: bool) -> None:
        self.phase = HEAD
        self._head_only = head_only
        self._head_bytes = self._noise = self._size = 0
        self._until_close = self._received = False
        self.headers: list[tuple[bytes, bytes]] = []

    def _parse(self, data: bytes) -> bool:
        """Whether the exchange can go on; if not, `failure` says why."""
        before, size = self.phase, self._size
        self._received = True
        try:
            self._feed(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self.phase != DONE:
                self._refused("protocol", f"the reply is not HTTP/1.1: {error}")
                return False
            self.keep = False  # what follows a complete reply is no reason to lose it
        if before == HEAD:
            self._head_bytes += len(data)
            if self._head_only or self._head_bytes > self._caps.head:
                return self._mind_head(data)
            return True
        if self._size != size:
            self._noise = 0
        elif self.phase == BODY:
            return self._count_noise(data)
        return True

    # Callbacks

    def on_message_begin(self) -> None:
        """A second reply after a complete one is surplus."""
        if self.phase == DONE:
            self.keep = False
            raise _StopParsingError

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header line of a head, or of the trailers."""
        if self.phase != HEAD:
            return  # a trailer: counted as framing, not kept
        name = name.lower()
        if name == b"transfer-encoding" and (
            value.strip().lower() != b"chunked" or any(known == name for known, _ in self.headers)
        ):
            self._refuse("protocol", "the reply has a transfer coding other than chunked")
        self.headers.append((name, value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """The end of a head: an interim one is skipped, the final one frames the body."""
        parser = self._parser
        assert parser is not None
        status = parser.get_status_code()
        if status < 200:
            if status < 100 or status == 101:
                self._refuse("protocol", f"unexpected reply status {status}")
            self.headers.clear()
            return
        if len(self.headers) > self._caps.headers:
            self._refuse("too_large", "the reply has too many header lines")
        self.status = status
        self.keep = parser.should_keep_alive()
        if self._head_only:
            self.phase = DONE
            return
        self.phase = BODY
        if not self.keep and status not in {204, 304}:
            names = {name for name, _ in self.headers}
            self._until_close = not names & {b"content-length", b"transfer-encoding"}

    def on_body(self, data: bytes) -> None:
        """A piece of the body."""
        self.parts.append(data)
        self._size += len(data)

    def on_message_complete(self) -> None:
        """The end of a reply, interim ones included."""
        if self.phase == BODY:
            self.phase = DONE

    # Inside

    def _new_parser(self) -> None:
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._feed: Any = self._parser.feed_data

    def _mind_head(self, data: bytes) -> bool:
        """Whether the head is still within its cap; also ends an exchange without body."""
        cap = self._caps.head
        if self._head_bytes > cap and (
            self.phase == HEAD or sum(len(n) + len(v) + 4 for n, v in self.headers) > cap
        ):
            self.phase = HEAD
            return self._refused("too_large", "the head of the reply is too large")
        if self._head_only and self.phase == DONE:
            # The parser believes that a body follows, so it cannot be used for another reply.
            if data.endswith(b"\r\n\r\n"):
                self._new_parser()
            else:
                self.keep = False
                self.parts.clear()
        return True

    def _count_noise(self, data: bytes) -> bool:
        """Whether framing without content (chunk extensions, trailers) is within the cap."""
        self._noise += len(data)
        if self._noise > self._caps.head:
            return self._refused("protocol", "too many bytes of framing without content")
        return True

    def _refused(self, kind: TransportKind, message: str) -> bool:
        if self.failure is None:
            self.failure = (kind, "head" if self.phase == HEAD else "body", message)
        return False

    def _refuse(self, kind: TransportKind, message: str) -> None:
        self._refused(kind, message)
        raise _StopParsingError
