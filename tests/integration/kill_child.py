"""A real server that a test kills: `kill_child.py DIRECTORY UPSTREAM_PORT SERVER honest|late`.

Every reply's last part is passed on and then held for `HOLD_SECONDS` before the gateway gets
control back, so that whatever it does *after* its final send has not happened when a client that
has the whole reply pulls the trigger. `late` proves that this net catches something: there the
journal is written behind the final send. Both are done at the gateway's entrance, which every
way through every server has in common.

Conversation: it prints `imported`, waits for a line, opens the gateway, prints the port. It ends
when its standard input does, so that a test that dies leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from llmgw_core.config.schema import AccountingConfig, Config, ServerConfig
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_server.app import create_app
from llmgw_server.listening import Listener, bind, listen
from llmgw_server.serve import serve_app

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.accounting.journal import Journal
    from llmgw_core.domain.access import Principal
    from llmgw_core.domain.call import Body, Handle, Head, Headers, Sink, Subcall
    from llmgw_core.domain.usage import UsageRecord

HOLD_SECONDS = 0.1
LATE_SECONDS = 0.4
"""How much later `late` writes the journal: more than a busy machine's clients are behind."""
DONE = b"data: [DONE]"
REQUEST_ID = b"x-request-id"


class LateWrites:
    """Settlement's writes, kept back until somebody lets them through."""

    def __init__(self, journal: Journal) -> None:
        self._write = journal.append_usage
        self._waiting: dict[str, UsageRecord] = {}
        journal.append_usage = self._keep  # type: ignore[method-assign]

    def _keep(self, record: UsageRecord) -> None:
        self._waiting[record.call_id] = record

    def let_through(self, call_id: str) -> None:
        record = self._waiting.pop(call_id, None)
        if record is not None:
            self._write(record)


class HeldSink:
    """A server's own sink, which gives control back late after the last part."""

    def __init__(self, sink: Sink) -> None:
        self.call_id = ""
        self._sink = sink

    @property
    def gone(self) -> bool:
        return self._sink.gone

    @gone.setter
    def gone(self, value: bool) -> None:
        self._sink.gone = value

    @property
    def on_gone(self) -> Callable[[], None] | None:
        return self._sink.on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[], None] | None) -> None:
        self._sink.on_gone = callback

    async def start(self, status: int, headers: Headers) -> None:
        self.call_id = dict(headers)[REQUEST_ID].decode()
        await self._sink.start(status, headers)

    async def write(self, data: bytes) -> None:
        await self._sink.write(data)
        if DONE in data:
            await asyncio.sleep(HOLD_SECONDS)

    async def finish(self, data: bytes = b"") -> None:
        await self._sink.finish(data)
        await asyncio.sleep(HOLD_SECONDS)


class HeldGateway(Gateway):
    """A gateway all of whose sinks are held."""

    late: LateWrites | None = None

    @property
    def handle(self) -> Handle:
        return self._held

    async def _held(
        self,
        head: Head,
        body: Body,
        sink: Sink,
        principal: Principal | None = None,
        subcall: Subcall | None = None,
    ) -> UsageRecord | None:
        held = HeldSink(sink)
        try:
            return await super().handle(head, body, held, principal, subcall)
        finally:
            if self.late is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(LATE_SECONDS, self.late.let_through, held.call_id)


def configuration(upstream_port: int) -> Config:
    """Small segments and a busy mover: a kill may hit a rotation and a transaction, too."""
    return Config(
        models={"m": served_by(at(upstream_port))},
        accounting=AccountingConfig(segment_bytes=64 * 1024, move_interval=0.05),
    )


async def serve(directory: Path, upstream_port: int, server: str, mode: str) -> None:
    listener = bind("127.0.0.1", 0)
    plugins: list[tuple[str, type[Any]]] = [("canonical", CanonicalPlugin)]
    async with HeldGateway.open(
        configuration(upstream_port), base_dir=directory, plugins=plugins
    ) as gateway:
        assert isinstance(gateway, HeldGateway)
        if mode == "late":
            gateway.late = LateWrites(gateway.journal)
        listen(listener)
        tell(str(listener.getsockname()[1]))
        app, stop = create_app(gateway), asyncio.Event()
        settings = ServerConfig(drain_seconds=1.0)
        await serve_app(app, [Listener(listener)], server=server, settings=settings, stop=stop)


def tell(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    tell("imported")
    if not sys.stdin.buffer.readline():
        return
    threading.Thread(target=end_with_parent, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))


if __name__ == "__main__":
    main()
