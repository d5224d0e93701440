"""The way from other threads into a gateway's event loop.

Nothing here may wait for ever: not for a loop that has stopped, not in the loop's own thread, and
not in a process that was forked from the gateway's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from llmgw_core.domain.errors import GatewayError
from llmgw_core.inprocess.refusal import closed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

LOOK_SECONDS = 1.0
"""How often a waiting thread looks whether the loop is still there."""


class Closable(Protocol):
    """Something in the loop that its user in another thread wants no more."""

    async def aclose(self) -> None:
        """End it and wait until it has ended."""
        ...

    def leave(self) -> None:
        """End it without waiting."""
        ...


class Portal:
    """Runs coroutines in `loop` for threads that wait. Made in the thread of the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._closed = False

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """What `coroutine` returns or raises. An exception in the waiting thread, such as
        `KeyboardInterrupt`, cancels it. Raises `GatewayError` 503 when the gateway is closed, and
        `RuntimeError` where waiting would never end."""
        try:
            self._check()
            with self._lock:
                # Under the lock, so that whatever gets in is in the loop before it is told to stop.
                if self._closed or self._loop.is_closed():
                    raise closed()
                future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        except BaseException:
            coroutine.close()
            raise
        return self._wait(future)

    def release(self, held: Closable) -> None:
        """End what is `held`, and wait for it where that is possible. Raises nothing."""
        if self.forked or threading.get_ident() == self._thread:
            self.soon(held.leave)
            return
        try:
            self.run(held.aclose())
        except GatewayError:  # the gateway is closed, and with it everything in it
            return

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the loop, if there still is one; for finalizers, which cannot wait."""
        if self.forked:
            return
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(callback)

    def close(self) -> None:
        """Let nothing in any more. Idempotent."""
        with self._lock:
            self._closed = True

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that the gateway runs in."""
        return os.getpid() != self._process

    def _wait(self, future: concurrent.futures.Future[T]) -> T:
        try:
            while not concurrent.futures.wait((future,), LOOK_SECONDS).done:
                if self._loop.is_closed():
                    raise closed()
            return future.result()
        except concurrent.futures.CancelledError:
            raise closed() from None
        except BaseException:
            future.cancel()
            raise

    def _check(self) -> None:
        if self.forked:
            raise RuntimeError(
                "This process was forked from the one that opened the gateway, and threads do not"
                " survive a fork. Open a gateway in each process, after the fork."
            )
        if threading.get_ident() == self._thread:
            raise RuntimeError(
                "This would block the event loop that the gateway runs in. Use the asynchronous"
                " methods or gateway.async_openai() here, or asyncio.to_thread()."
            )
