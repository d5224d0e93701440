"""A gateway for programs without an event loop: it runs in a thread of its own.

    with SyncGateway.open("llmgw.yaml") as gateway:
        gateway.chat(model="m", messages=[...], key=KEY)

Any number of threads may use it, also such that run an event loop, as in a notebook. A process
that is forked from this one cannot: threads do not survive a fork.
"""

from __future__ import annotations

import asyncio
import atexit
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

from llmgw_core.gateway import Gateway
from llmgw_core.inprocess.blocking import BlockingCaller

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path
    from types import TracebackType

    from openai import OpenAI

    from llmgw_core.config.schema import Config
    from llmgw_core.domain.access import Principal
    from llmgw_core.inprocess.blocking import BlockingChatStream
    from llmgw_core.inprocess.replies import ChatReply, EmbeddingReply, Json

T = TypeVar("T")


class SyncGateway:
    """A running gateway whose methods wait. Made by `open`; a context manager. Who calls is said
    by `key` or `principal`, as `Caller` explains; the calls raise `GatewayError`."""

    def __init__(self, gateway: Gateway, thread: _GatewayThread) -> None:
        self.gateway = gateway
        """The asynchronous one; `run` runs its coroutines."""
        self._thread = thread
        self._portal = gateway.calls.portal

    @classmethod
    def open(
        cls,
        source: str | Path | Config,
        *,
        base_dir: Path | None = None,
        plugins: Sequence[tuple[str, type[Any]]] = (),
    ) -> Self:
        """Start a gateway; the arguments and errors are those of `Gateway.open`. One that is not
        closed is closed when the program ends."""
        opening = Gateway.open(source, base_dir=base_dir, plugins=plugins)
        thread = _GatewayThread(opening)
        thread.start()
        try:
            gateway = thread.opened.result()
        except BaseException:
            thread.stop()
            thread.join()
            raise
        opened = cls(gateway, thread)
        atexit.register(opened.close)
        return opened

    def close(self) -> None:
        """End the calls that still run, settle everything and stop. Calls in other threads raise
        `GatewayError` 503. Idempotent; nothing in a forked process."""
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "The gateway's own thread would wait for its end: close it elsewhere."
            )
        atexit.unregister(self.close)
        if not self._portal.forked:
            self._thread.stop()
            self._thread.closed.result()
            self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """What a coroutine of the gateway gives, such as those of `gateway.gateway.tenancy`."""
        return self._portal.run(coroutine)

    def caller(
        self, *, key: str | None = None, principal: Principal | None = None
    ) -> BlockingCaller:
        """The same methods, bound to one caller."""
        return BlockingCaller(self.gateway.caller(key=key, principal=principal), self._portal)

    def principal(
        self, organization: str, *, team: str | None = None, user: str | None = None
    ) -> Principal:
        """See `Gateway.principal`."""
        return self.run(self.gateway.principal(organization, team=team, user=user))

    def chat(
        self,
        *,
        model: str,
        messages: Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> ChatReply:
        """See `Caller.chat`."""
        caller = self.caller(key=key, principal=principal)
        return caller.chat(model=model, messages=messages, headers=headers, **fields)

    def chat_stream(
        self,
        *,
        model: str,
        messages: Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> BlockingChatStream:
        """See `BlockingCaller.chat_stream`."""
        caller = self.caller(key=key, principal=principal)
        return caller.chat_stream(model=model, messages=messages, headers=headers, **fields)

    def embed(
        self,
        *,
        model: str,
        input: str | Sequence[object],
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
        **fields: object,
    ) -> EmbeddingReply:
        """See `Caller.embed`."""
        caller = self.caller(key=key, principal=principal)
        return caller.embed(model=model, input=input, headers=headers, **fields)

    def models(
        self,
        *,
        key: str | None = None,
        principal: Principal | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> list[Json]:
        """See `Caller.models`."""
        return self.caller(key=key, principal=principal).models(headers=headers)

    def openai(
        self, *, key: str | None = None, principal: Principal | None = None, **options: Any
    ) -> OpenAI:
        """The official blocking client, for any thread. See `Caller.openai`."""
        return self.gateway.caller(key=key, principal=principal).blocking_client(options)


class _GatewayThread(threading.Thread):
    """The thread of one gateway. `opened` has it or the reason why there is none, `closed` how
    its closing went."""

    def __init__(self, opening: AbstractAsyncContextManager[Gateway]) -> None:
        # A daemon, so that a program that forgets to close ends nevertheless; `atexit` closes.
        super().__init__(name="llmgw gateway", daemon=True)
        self.opened: Future[Gateway] = Future()
        self.closed: Future[None] = Future()
        self._stopped: Future[None] = Future()
        self._opening = opening

    def run(self) -> None:
        """See `threading.Thread.run`."""
        try:
            asyncio.run(self._watch())
        finally:
            for awaited in (self.opened, self.closed):
                if not awaited.done():
                    awaited.set_exception(RuntimeError("The gateway's thread came to an end."))

    def stop(self) -> None:
        """Ask it to end. Idempotent, from any thread."""
        with suppress(InvalidStateError):
            self._stopped.set_result(None)

    async def _watch(self) -> None:
        life = asyncio.create_task(self._live())
        stopped = asyncio.wrap_future(self._stopped)
        await asyncio.wait((life, stopped), return_when=asyncio.FIRST_COMPLETED)
        if not self.opened.done():
            life.cancel()  # whoever opened it waits no longer
        await asyncio.wait((life,))
        if life.cancelled():
            return
        error = life.exception()
        if error is None:
            self.closed.set_result(None)
        else:
            (self.closed if self.opened.done() else self.opened).set_exception(error)

    async def _live(self) -> None:
        async with self._opening as gateway:
            self.opened.set_result(gateway)
            await asyncio.wrap_future(self._stopped)
