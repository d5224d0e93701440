"""A reload under 200 running streams and 50 calls per second, over real sockets: no failed call,
the old generation is closed, unchanged plugins keep their state; a broken file changes nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from llmgw_core.gateway import Gateway
from llmgw_core.hooks.specs import hookimpl
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.reloads import HeldStreams, settled
from llmgw_core.testing.tenants import create_tenant
from llmgw_server.reloading import reloading

from .conftest import Server, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import pytest

    from llmgw_core.domain.call import Call
    from llmgw_core.hooks.context import PluginContext
    from llmgw_core.testing.model_server import ModelServer
    from llmgw_core.wire.request import RequestView

STREAMS = 200
SECONDS_BETWEEN_CALLS = 0.02
FIRST = """
accounting: {{unpriced: zero, move_interval: 0.05}}
plugins: [{{name: changing, config: {{mark: first}}}}]
models:
  quick: {{deployments: [{{name: a, backend: canonical, zone: z, options: {{port: {quick}}}}}]}}
  held: {{deployments: [{{name: a, backend: canonical, zone: z, options: {{port: {held}}}}}]}}
"""
SECOND = """
accounting: {{unpriced: zero, move_interval: 0.05}}
plugins: [{{name: changing, config: {{mark: second}}}}]
models:
  quick:
    tags: [new]
    deployments: [{{name: a, backend: canonical, zone: z, options: {{port: {quick}}}}}]
"""
BROKEN = """
accounting: {unpriced: zero, move_interval: 0.05}
models:
  quick: {deployments: [{name: a, backend: cannonical, zone: z, options: {port: 1}}]}
"""


class Watcher:
    """Counts the calls that it sees, in its instance, and notes its own life."""

    life: list[str]

    class Config(msgspec.Struct, frozen=True):
        mark: str = "kept"

    def __init__(self, config: Watcher.Config, context: PluginContext) -> None:
        self.mark, self.context = config.mark, context

    @hookimpl
    async def startup(self) -> None:
        self.life.append(f"{self.mark} up")

    @hookimpl
    async def pre_route(self, request: RequestView, call: Call) -> None:
        self.context.metrics.counters[request.model] += 1

    @hookimpl
    async def shutdown(self) -> None:
        self.life.append(f"{self.mark} down")


class Loaded(NamedTuple):
    gateway: Gateway
    server: Server
    file: Path
    life: list[str]


@asynccontextmanager
async def served(file: Path, kind: str) -> AsyncIterator[Loaded]:
    watcher: type[Any] = type("Watcher", (Watcher,), {"life": []})
    plugins: list[tuple[str, type[Any]]] = [
        *(("canonical", CanonicalPlugin), ("staying", watcher), ("changing", watcher))
    ]
    async with Gateway.open(file, plugins=plugins) as gateway:
        tenant = await create_tenant(gateway.store)
        async with reloading(gateway), running(gateway, tenant.key, kind) as server:
            yield Loaded(gateway, server, file, watcher.life)


def body(model: str, *, stream: bool) -> bytes:
    messages = [{"role": "user", "content": "Hello"}]
    return json.dumps({"model": model, "messages": messages, "stream": stream}).encode()


class Calls:
    """Fifty calls a second until it is told to stop."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[int]] = []
        self._begins = asyncio.create_task(self._begin())

    async def more(self, number: int) -> None:
        """Wait until so many more have been answered."""
        wanted = sum(task.done() for task in self._tasks) + number
        await settled(lambda: sum(task.done() for task in self._tasks) >= wanted)

    async def stop(self) -> list[int]:
        """The statuses of all."""
        self._stop.set()
        await self._begins
        return await asyncio.gather(*self._tasks)

    async def _begin(self) -> None:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while not self._stop.is_set():
            self._tasks.append(asyncio.create_task(self._one()))
            due = start + len(self._tasks) * SECONDS_BETWEEN_CALLS
            try:
                async with asyncio.timeout_at(due):
                    await self._stop.wait()
            except TimeoutError:
                continue

    async def _one(self) -> int:
        reply = await self._server.post("/v1/chat/completions", body("quick", stream=False))
        return reply.status


async def hang_up(loaded: Loaded, text: str) -> None:
    """Replace the file as deployment tools do, and send the signal."""
    draft = loaded.file.with_suffix(".new")
    draft.write_text(text)
    draft.replace(loaded.file)
    os.kill(os.getpid(), signal.SIGHUP)


async def test_a_reload_under_load_fails_no_call_and_closes_what_was_before(
    tmp_path: Path, server: ModelServer, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    held, file = HeldStreams(), tmp_path / "llmgw.yaml"
    async with held.upstream as upstream:
        ports = {"quick": server.port, "held": upstream.port}
        file.write_text(FIRST.format(**ports))
        async with served(file, kind) as loaded:
            gateway = loaded.gateway
            streams = [
                asyncio.create_task(
                    loaded.server.post("/v1/chat/completions", body("held", stream=True))
                )
                for _ in range(STREAMS)
            ]
            await upstream.until(lambda: len(upstream.requests) == STREAMS)
            calls = Calls(loaded.server)
            await calls.more(25)

            reloaded = asyncio.Event()
            gateway.after_reload(reloaded.set)
            await hang_up(loaded, SECOND.format(**ports))
            await reloaded.wait()
            await calls.more(50)
            assert (gateway.generation, gateway.generations) == (2, 2)
            assert gateway.catalog["quick"].tags == ("new",)
            assert loaded.life == ["kept up", "first up", "second up"]
            gone = await loaded.server.post("/v1/chat/completions", body("held", stream=False))
            assert gone.status == 404

            await hang_up(loaded, BROKEN)
            await settled(lambda: "was not reloaded" in caplog.text)
            await calls.more(25)
            assert "no enabled plugin has a backend `cannonical`" in caplog.text
            assert "did you mean `canonical`?" in caplog.text
            assert gateway.generation == 2

            assert upstream.open == STREAMS
            held.going_on.set()
            for reply in await asyncio.gather(*streams):
                assert reply.status == 200
                assert reply.body.endswith(b"data: [DONE]\n\n")
            await settled(lambda: gateway.generations == 1)
            await upstream.until(lambda: upstream.open == 0)
            statuses = await calls.stop()
            assert set(statuses) == {200}
            assert loaded.life == ["kept up", "first up", "second up", "first down"]
            counted = gateway.host.contexts["staying"].metrics.counters
            assert counted == {"held": STREAMS, "quick": len(statuses)}
            await gateway.mover.move_once()
            rows = await gateway.ledger.rows(limit=10_000)
            assert {row.record.status for row in rows} == {"completed"}
            assert len(rows) == STREAMS + len(statuses)
