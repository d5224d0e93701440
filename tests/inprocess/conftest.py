"""Gateways inside the test's own program, and upstreams in its loop or in a thread beside it."""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from llmgw_core.config.schema import AccountingConfig, Config
from llmgw_core.sync_gateway import SyncGateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_core.testing.model_server import DONE, SSE, WORD, ModelServer, chat_chunk, event
from llmgw_core.testing.tenants import create_tenant
from llmgw_core.testing.upstream import Peer, Upstream, chunk, chunked_head

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from pathlib import Path

    from llmgw_core import ChatStream, Gateway, UsageRecord
    from llmgw_core.testing.tenants import Tenant
    from llmgw_core.testing.upstream import Script

T = TypeVar("T")

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C is an exception, also where whoever has started the tests ignores it, as a shell does
    for what it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def one_word(peer: Peer) -> None:
    """A stream that says one word, and then nothing until its client has gone."""
    await peer.request()
    await peer.send(chunked_head(200, SSE) + chunk(WORD))
    await peer.gone()


async def two_words_and_a_cut(peer: Peer) -> None:
    """A stream that breaks off."""
    await peer.request()
    await peer.send(chunked_head(200, SSE) + chunk(WORD) + chunk(WORD))
    peer.cut()


async def silent(peer: Peer) -> None:
    """An upstream that says nothing."""
    await peer.request()
    await peer.gone()


async def ends_at_once(peer: Peer) -> None:
    """A stream without any content."""
    await peer.request()
    await peer.send(
        chunked_head(200, SSE) + chunk(event(chat_chunk({}, "stop")) + DONE) + chunk(b"")
    )


async def until_settled(gateway: Gateway) -> None:
    """Wait for what goes on in the background."""
    while gateway.books.open or gateway.stats.in_flight:  # noqa: ASYNC110 -- nobody tells
        await asyncio.sleep(0)


async def follow(stream: ChatStream, found: list[str]) -> None:
    """Read a stream to its end, into `found`."""
    async with stream:
        async for each in stream:
            found.append(each.text)  # noqa: PERF401 -- what came before an error counts


@pytest.fixture
async def scripted() -> AsyncIterator[Callable[[Script], Awaitable[Upstream]]]:
    """Opens upstreams that follow a script."""
    async with AsyncExitStack() as stack:

        async def opened(script: Script) -> Upstream:
            return await stack.enter_async_context(Upstream(script))

        yield opened


class Elsewhere:
    """An event loop in a thread, for upstreams of tests that block."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Beside:
    """A blocking gateway with a tenant, and the upstreams that it uses, in a thread beside it."""

    def __init__(self, elsewhere: Elsewhere, directory: Path, stack: ExitStack) -> None:
        self.elsewhere = elsewhere
        self.gateway: SyncGateway
        self.tenant: Tenant
        self._directory = directory
        self._stack = stack

    def serve(self, upstream: T) -> T:
        """Run an upstream (any asynchronous context manager) beside the test."""

        async def enter() -> T:
            return await upstream.__aenter__()  # type: ignore[attr-defined, no-any-return]

        async def leave() -> None:
            await upstream.__aexit__(None, None, None)  # type: ignore[attr-defined]

        entered = self.elsewhere.run(enter())
        self._stack.callback(lambda: self.elsewhere.run(leave()))
        return entered

    def scripted(self, script: Script) -> Upstream:
        return self.serve(Upstream(script))

    def config(self, *deployments: Any) -> Config:
        return Config(
            models={"m": served_by(*deployments)},
            accounting=AccountingConfig(move_interval=3600.0, segment_bytes=1 << 20),
        )

    def open(self, *deployments: Any) -> SyncGateway:
        self.gateway = self._stack.enter_context(
            SyncGateway.open(
                self.config(*deployments),
                base_dir=self._directory,
                plugins=[("canonical", CanonicalPlugin)],
            )
        )
        self.tenant = self.gateway.run(create_tenant(self.gateway.gateway.store))
        return self.gateway

    def records(self) -> list[UsageRecord]:
        async def read() -> list[UsageRecord]:
            inner = self.gateway.gateway
            await inner.mover.move_once()
            return [row.record for row in await inner.ledger.rows(limit=10_000)]

        return self.gateway.run(read())

    def settled(self, count: int) -> list[UsageRecord]:
        """The records, once `count` calls have settled."""
        self.gateway.run(until_settled(self.gateway.gateway))
        found = self.records()
        assert len(found) == count
        return found


@pytest.fixture
def beside(tmp_path: Path) -> Iterator[Beside]:
    """What blocking tests need; they open the gateway themselves."""
    elsewhere = Elsewhere()
    try:
        with ExitStack() as stack:
            yield Beside(elsewhere, tmp_path, stack)
    finally:
        elsewhere.close()


@pytest.fixture
def blocking(beside: Beside) -> Beside:
    """A blocking gateway in front of a model server that works."""
    beside.open(at(beside.serve(ModelServer())))
    return beside
