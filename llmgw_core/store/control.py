"""How a running gateway hears of what the command line has put into the store.

What administrators change while it runs (switches, rollouts) are rows. A background task reads
all of it at once every `staleness` seconds, and whoever changes something in this process asks for
a `refresh`. What was read last stays in force while the store does not answer.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from llmgw_core.domain.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncConnection

    from llmgw_core.store.engine import Store

log = logging.getLogger("llmgw.control")

T = TypeVar("T")

READ_SECONDS: Final = 2.0
"""For the store to answer; after that it counts as down."""
_NOTHING: Final = object()


class _Reader(Generic[T]):
    """One kind of state: how it is read, what is done with it, and what was read last."""

    __slots__ = ("apply", "last", "read")

    def __init__(
        self, read: Callable[[AsyncConnection], Awaitable[T]], apply: Callable[[T], None]
    ) -> None:
        self.read = read
        self.apply = apply
        self.last: Any = _NOTHING


class ControlWatch:
    """See the module. `staleness` in seconds."""

    def __init__(self, store: Store, *, staleness: float) -> None:
        self._store = store
        self._staleness = staleness
        self._readers: list[_Reader[Any]] = []
        self._reading = asyncio.Lock()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.store_up = True
        """Whether the last attempt to read, if any, succeeded."""

    def add(
        self, read: Callable[[AsyncConnection], Awaitable[T]], apply: Callable[[T], None]
    ) -> None:
        """Have `read` called with a connection to the store and `apply` with its result, at once
        after reading, whenever that is another one (`==`) than the last. Neither may block, and
        `apply` must not raise. In the order of adding, and all of one moment of the store."""
        self._readers.append(_Reader(read, apply))

    def configure(self, *, staleness: float) -> None:
        """Another bound, in seconds, from now on."""
        if staleness != self._staleness:
            self._staleness = staleness
            self._wake.set()

    async def refresh(self) -> None:
        """Read now and apply what is new: whatever was committed before this call is in force
        after it. Raises `StoreUnavailable`; then everything stays as it was."""
        async with self._reading:
            try:
                async with asyncio.timeout(READ_SECONDS), self._store.connect() as connection:
                    found = [await reader.read(connection) for reader in self._readers]
            except (StoreUnavailable, TimeoutError) as error:
                raise self._unread("the store does not answer") from error
            except (msgspec.MsgspecError, ValueError, TypeError) as error:
                # A row that somebody has written by hand must not end the reading of all others.
                raise self._unread("a row in the store makes no sense") from error
            if not self.store_up:
                log.info("the store answers again; switches and rollouts are current")
                self.store_up = True
            for reader, state in zip(self._readers, found, strict=True):
                if reader.last is _NOTHING or reader.last != state:
                    reader.last = state
                    reader.apply(state)

    def _unread(self, reason: str) -> StoreUnavailable:
        if self.store_up:
            log.warning("%s; switches and rollouts hold as last read", reason)
        self.store_up = False
        return StoreUnavailable(reason)

    def start(self) -> None:
        """Begin to read in the background. Needs a running loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="llmgw control")

    async def aclose(self) -> None:
        """End. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self._staleness):
                    await self._wake.wait()
                self._wake.clear()
            except TimeoutError:
                pass
            try:
                await self.refresh()
            except StoreUnavailable:
                log.debug("switches and rollouts could not be read", exc_info=True)
