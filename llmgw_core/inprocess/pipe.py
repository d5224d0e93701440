"""A reply on its way to a reader in the same event loop: the sink of calls without a socket.

One piece may lie unread; whoever has a second one waits. So a reader that is slow holds back the
call, and the call its upstream.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.call import Headers


class Pipe:
    """A `Sink` for one call and one reader. `status` is 0 until the reply has begun; `finished`
    is true when it was handed over to its last byte."""

    __slots__ = (
        "_ended",
        "_filled",
        "_piece",
        "_room",
        "_started",
        "finished",
        "gone",
        "headers",
        "on_gone",
        "status",
        "task",
    )
    local = True

    def __init__(self) -> None:
        self.gone = False
        self.on_gone: Callable[[], None] | None = None
        self.task: asyncio.Task[object] | None = None
        self.status = 0
        self.headers: Headers = ()
        self.finished = False
        self._piece = b""
        self._ended = False
        self._started = asyncio.Event()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    # ------------------------------------------------------------------ the call's side

    async def start(self, status: int, headers: Headers) -> None:
        """See `Sink`."""
        self.status = status
        self.headers = headers
        self._started.set()

    async def write(self, data: bytes) -> None:
        """See `Sink`."""
        if not data:
            return
        if not self._room.is_set():
            await self._room.wait()
        if not self.gone:
            self._room.clear()
            self._piece = data
            self._filled.set()

    async def finish(self, data: bytes = b"") -> None:
        """See `Sink`."""
        await self.write(data)
        if not self.gone:
            self.finished = True
            self.end()

    def end(self) -> None:
        """Nothing comes any more. Idempotent."""
        self._ended = True
        self._started.set()
        self._filled.set()

    # ------------------------------------------------------------------ the reader's side

    async def started(self) -> None:
        """Wait for the head of the reply, or for an end without any."""
        await self._started.wait()

    async def read(self) -> bytes:
        """The next piece of the body; b"" at its end."""
        await self._filled.wait()
        piece, self._piece = self._piece, b""
        if not self._ended:
            self._filled.clear()
        self._room.set()
        return piece

    def leave(self) -> None:
        """The reader goes away: what it has not read is dropped. Idempotent."""
        if self.gone:
            return
        self.gone = True
        self._piece = b""
        self._room.set()
        self.end()
        if self.on_gone is not None:
            self.on_gone()
