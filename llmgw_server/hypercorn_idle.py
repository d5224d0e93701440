"""How long a connection on Hypercorn may be without a request.

Hypercorn has a task for that, which it cancels and makes anew for every request; that costs more
than all of its parsing. Here restarting is an assignment, and one timer looks at the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from llmgw_server.hypercorn_server import Connection

LOOKS = 4
"""Looks at a head during its time: it ends that much of the time late at most."""
_GRAIN = 0.01
"""Seconds that a timer may be early."""


class IdleTimer:
    """In the place of Hypercorn's `SingleTask` of one connection. The first head has
    `head_seconds` from the start, a later one from its first byte."""

    def __init__(self, connection: Connection, head_seconds: float) -> None:
        self._connection = connection
        self._head_seconds = head_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        self._head_since: float | None = None
        self._asked = False
        """Whether the connection has had a request."""
        self._closed = False

    async def restart(self, task_group: object, action: Callable[..., object]) -> None:
        """No request runs; one has to come."""
        connection = self._connection
        if self._closed:
            return
        self._idle_since = connection.loop.time()
        self._head_since = None
        if connection.context.terminated.is_set():
            self.drain()
        elif self._timer is None:
            self._arm(self._head_seconds / LOOKS)

    async def stop(self) -> None:
        """A request has come, or the connection ends."""
        self._idle_since = None
        self._asked = True

    def close(self) -> None:
        """Nothing comes any more."""
        self._closed = True
        self._idle_since = None
        if self._timer is not None:
            self._timer.cancel()

    def drain(self) -> None:
        """No more requests: the connection ends now if it is idle."""
        if self._idle_since is not None:
            self._idle_since = None
            self._connection.end()

    def _arm(self, seconds: float) -> None:
        self._timer = self._connection.loop.call_later(seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._idle_since is None:
            return  # the next `restart` arms again
        now = self._connection.loop.time()
        patience = self._connection.config.keep_alive_timeout
        left = self._idle_since + (patience if self._asked else self._head_seconds) - now
        if left <= _GRAIN or self._head_is_late(now):
            self.drain()
        else:
            self._arm(min(left, self._head_seconds / LOOKS))

    def _head_is_late(self, now: float) -> bool:
        if not self._asked or not self._connection.in_head():
            self._head_since = None
        elif self._head_since is None:
            self._head_since = now
        return self._head_since is not None and now - self._head_since >= self._head_seconds
