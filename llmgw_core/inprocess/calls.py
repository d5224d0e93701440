"""Calls of the application itself: each runs in a task that the gateway owns.

Whoever waits for a reply may be cancelled, raise or forget it; that is a client that leaves, and
the call settles by itself. Nothing here waits for a call that has nobody left to read it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from llmgw_core.inprocess.memory import MemoryBody
from llmgw_core.inprocess.pipe import Pipe
from llmgw_core.inprocess.portal import Portal
from llmgw_core.inprocess.refusal import closed

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Handle, Head
    from llmgw_core.domain.usage import UsageRecord


class Calls:
    """The calls in flight of one gateway. Made in its event loop, used there only. `handle` is
    asked for anew with every call."""

    def __init__(self, handle: Callable[[], Handle]) -> None:
        self.loop = asyncio.get_running_loop()
        self.portal = Portal(self.loop)
        """For other threads."""
        self._handle = handle
        self._tasks: set[asyncio.Task[UsageRecord | None]] = set()
        self._closed = False

    def begin(self, head: Head, body: bytes, principal: Principal | None) -> InProcessCall:
        """Start a call. Raises `GatewayError` when the gateway is closed, `RuntimeError` in
        another event loop than the gateway's."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(
                "A gateway belongs to the event loop that opened it. From other threads and loops"
                " use gateway.openai(), or open a SyncGateway."
            )
        if self._closed:
            raise closed()
        pipe = Pipe()
        task = self.loop.create_task(
            self._handle()(head, MemoryBody(body), pipe, principal), name="llmgw call"
        )
        pipe.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: pipe.end())
        return InProcessCall(pipe, task)

    async def aclose(self) -> None:
        """End every call that still runs, and admit no other. Idempotent."""
        self._closed = True
        self.portal.close()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class InProcessCall:
    """One call. Whoever holds it reads its reply and then closes it."""

    __slots__ = ("_pipe", "_task")

    def __init__(self, pipe: Pipe, task: asyncio.Task[UsageRecord | None]) -> None:
        self._pipe = pipe
        self._task = task

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        """Status and header fields of the reply, names in lower case. Raises `GatewayError`
        when the gateway was closed before there was any."""
        await self._pipe.started()
        if not self._pipe.status:
            raise closed()
        # Latin-1 is the one encoding of header fields that cannot fail.
        fields = [(name.decode(), value.decode("latin-1")) for name, value in self._pipe.headers]
        return self._pipe.status, fields

    async def read(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises `GatewayError` when the gateway
        was closed before it."""
        piece = await self._pipe.read()
        if not piece and not self._pipe.finished:
            raise closed()
        return piece

    async def read_all(self) -> bytes:
        """All of the body."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return b"".join(pieces)

    async def record(self) -> UsageRecord | None:
        """What the books say, once the reply was read to its end; None for a call that was not
        admitted, or ended with the gateway."""
        await asyncio.wait((self._task,))
        return None if self._task.cancelled() else self._task.result()

    def leave(self) -> None:
        """Nobody wants the rest. Idempotent."""
        self._pipe.leave()

    async def aclose(self) -> None:
        """Leave, and wait until a call that this stops has settled. One that this does not stop
        goes on by itself: `on_disconnect: drain` says so, or it is not admitted yet. Idempotent."""
        stops = self._pipe.on_gone is not None
        self._pipe.leave()
        if stops:
            await asyncio.wait((self._task,))
