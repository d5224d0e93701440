"""One connection and the exchange that runs on it: bytes in, state out, no coroutine.

The state lives on the connection itself, so that a request costs no further object; a reply
refers to its connection and never the other way round, so that a forgotten reply is noticed.
One timer serves the whole life of a connection: moving the deadline later is an assignment, and
the timer looks at the deadline when it fires.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from typing import Final, Protocol, cast

from llmgw_core.backends.transport.port import TransportError, TransportKind, TransportPhase
from llmgw_core.backends.transport.reply_parsing import BODY, DONE, HEAD, IDLE, Caps, ReplyParsing
from llmgw_core.domain.deployment import Timeouts

_JOIN_LIMIT: Final = 65536
_SLICE: Final = 262144
_TIMER_GRAIN: Final = 0.002


class Owner(Protocol):
    """Who keeps account of connections."""

    def post(self, transport: asyncio.Transport, data: bytes) -> None:
        """Write `data` before the loop waits again, together with what others post."""

    def gave_up(self, connection: Connection) -> None:
        """The connection cannot be used again. Called once."""

    def closed(self, connection: Connection) -> None:
        """The socket is closed."""

    def rested(self, connection: Connection) -> float | None:
        """The exchange is over and the connection can carry another one. Returns until when it may
        rest (loop time), None if it does not."""


class Connection(ReplyParsing, asyncio.Protocol):
    """One HTTP/1.1 connection. `start` begins an exchange; then `phase`, `parts` and `failure`
    say how far it is, and `waiter` is resolved when one of them has changed."""

    __slots__ = (
        "_deadline",
        "_given_up",
        "_loop",
        "_owner",
        "_read_paused",
        "_timeouts",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent",
        "_write_paused",
        "alive",
        "holds_slot",
        "reused",
        "started",
        "waiter",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, owner: Owner, caps: Caps) -> None:
        super().__init__(caps)
        self._loop = loop
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = self._deadline = math.inf
        self._read_paused = self._write_paused = False
        self._unsent: memoryview | None = None
        self._timeouts = Timeouts()
        self._given_up = False
        self.alive = False
        self.holds_slot = False
        self.reused = False
        self.started = 0.0
        self.waiter: asyncio.Future[None] | None = None

    # The exchange, as its user drives it

    def start(
        self, head: bytes, body: bytes, head_only: bool, timeouts: Timeouts, started: float
    ) -> None:
        """Begin an exchange on a connection that is idle. `started` (loop time) is when the
        attempt began, for `timeouts.total`. `head_only`: the reply has no body whatever its
        head says."""
        transport = self._transport
        assert transport is not None
        self._expect_reply(head_only=head_only)
        self.started = started
        self._timeouts = timeouts
        if len(body) > _JOIN_LIMIT:
            self._unsent = memoryview(body)
            transport.write(head)
            self._pump()
            self._expect_progress()
            return
        self._owner.post(transport, head + body if body else head)
        # `_expect_progress` for what is as good as sent.
        deadline, end = self._loop.time() + timeouts.first_byte, started + timeouts.total
        self._deadline = deadline = deadline if deadline < end else end  # noqa: FURB136 -- hot
        if deadline < self._timer_at:
            self._set_deadline(deadline)

    def wait(self, deadline: float) -> asyncio.Future[None]:
        """A future for the next change, failing the exchange at `deadline` (loop time)."""
        if self.waiter is not None:
            raise RuntimeError("a reply is read by one task at a time")
        self._set_deadline(deadline)
        self.waiter = self._loop.create_future()
        return self.waiter

    def idle_deadline(self) -> float:
        """When a wait for the next byte of the body that begins now is over (loop time)."""
        return self._loop.time() + self._timeouts.idle

    def total_deadline(self) -> float:
        """When the whole attempt is over (loop time)."""
        return self.started + self._timeouts.total

    def take(self) -> bytes:
        """What has arrived of the body, and let more come."""
        parts = self.parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        self._size = 0
        if self._read_paused:
            self._resume_reading()
        return data

    def release(self) -> None:
        """After the end of the body: ready for the next exchange, or closed if the peer or the
        way the exchange went forbids one."""
        self.phase = IDLE
        self.parts.clear()
        if self.keep and self.alive and self._unsent is None and not self._write_paused:
            if self._read_paused:
                self._resume_reading()
            self.reused = True
            deadline = self._owner.rested(self)
            if deadline is not None:
                # `rest_until`, written out: every reply comes through here.
                self._deadline = deadline
                if deadline < self._timer_at:
                    self._set_deadline(deadline)
        else:
            self.give_up()

    def rest_until(self, deadline: float) -> None:
        """Close when nobody has started an exchange by `deadline` (loop time)."""
        self._deadline = deadline
        if deadline < self._timer_at:
            self._set_deadline(deadline)

    def fail(self, kind: TransportKind, message: str) -> None:
        """End the exchange with an error; its user learns it after what lies ready."""
        if self.failure is None and self.phase in {HEAD, BODY}:
            self.failure = (kind, self._where(), message)
        self.give_up()
        self._wake()

    def give_up(self) -> None:
        """Close now. Idempotent."""
        self._given_up = True
        self._deadline = math.inf
        self._unsent = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._timer_at = math.inf
        if self.alive:
            self.alive = False
            self._owner.gave_up(self)
        if self._transport is not None:
            self._transport.abort()

    def error(self) -> TransportError:
        """The failure as an exception."""
        assert self.failure is not None
        kind, phase, message = self.failure
        return TransportError(kind, phase, message, reused=self.reused, received=self._received)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open (and TLS agreed)."""
        if self._given_up:  # uvloop connects to the end what was cancelled meanwhile
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has no common base
        self.alive = True
        # With no tolerance, `pause_writing` says exactly whether everything has left this
        # process; asyncio's TLS transport would count an empty buffer as full at 0.
        encrypted = transport.get_extra_info("sslcontext") is not None
        self._transport.set_write_buffer_limits(high=1 if encrypted else 0, low=0)

    def data_received(self, data: bytes) -> None:
        """Parse, buffer, wake whoever waits; bytes outside an exchange end the connection."""
        phase = self.phase
        if phase in (IDLE, DONE) or not self.alive:
            self.keep = False
            if phase == IDLE:
                self.give_up()
            return
        if not self._parse(data):
            self.give_up()
            self._wake()
            return
        if self._size > self._caps.high_water and not self._read_paused:
            self._pause_reading()
        waiter = self.waiter
        if waiter is not None and (self.parts or self.phase != phase):
            # `_wake`, written out: every reply comes through here.
            self.waiter = None
            self._deadline = math.inf
            if not waiter.done():
                waiter.set_result(None)

    def eof_received(self) -> None:
        """The peer sends no more. Half-open connections are of no use here."""
        self._lost(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        self._lost(exc)
        if self._transport is not None:
            self._transport = None
            self._owner.closed(self)

    def pause_writing(self) -> None:
        """The socket takes no more for now."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """Everything written so far has left; go on with a large body."""
        self._write_paused = False
        if self._unsent is not None:
            self._pump()
        if self.phase == HEAD:
            self._expect_progress()

    # Inside

    def _lost(self, exc: Exception | None) -> None:
        if self._until_close and self.phase == BODY and exc is None:
            self.phase = DONE
        kind: TransportKind = "tls" if isinstance(exc, ssl.SSLError) else "reset"
        self.keep = False
        self.fail(kind, f"the upstream closed the connection ({exc or 'end of data'})")
        self._parser = self._feed = None  # a reference cycle otherwise

    def _where(self) -> TransportPhase:
        if self.phase == BODY:
            return "body"
        return "head" if self._unsent is None and not self._write_paused else "send"

    def _wake(self) -> None:
        waiter = self.waiter
        if waiter is not None:
            self.waiter = None
            self._deadline = math.inf
            if not waiter.done():
                waiter.set_result(None)

    def _pump(self) -> None:
        unsent, transport = self._unsent, self._transport
        while unsent and not self._write_paused and transport is not None:
            transport.write(unsent[:_SLICE])
            unsent = unsent[_SLICE:]
        self._unsent = unsent or None

    def _pause_reading(self) -> None:
        if self.alive and self._transport is not None:
            self._read_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        self._read_paused = False
        if self.alive and self._transport is not None:
            self._transport.resume_reading()

    # Time

    def _expect_progress(self) -> None:
        sent = self._unsent is None and not self._write_paused
        timeouts = self._timeouts
        deadline = self._loop.time() + (timeouts.first_byte if sent else timeouts.idle)
        end = self.started + timeouts.total
        self._deadline = deadline = deadline if deadline < end else end  # noqa: FURB136 -- hot
        if deadline < self._timer_at:
            self._set_deadline(deadline)

    def _set_deadline(self, deadline: float) -> None:
        self._deadline = deadline
        if deadline < self._timer_at and self.alive:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = deadline
            self._timer = self._loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._timer_at = math.inf
        if self._loop.time() + _TIMER_GRAIN < self._deadline:
            if self._deadline != math.inf:
                self._set_deadline(self._deadline)
        elif self.phase == IDLE:
            self.give_up()
        else:
            self.fail("timeout", "the upstream took too long")
