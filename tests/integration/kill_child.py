"""A real server that a test kills: `kill_child.py DIRECTORY UPSTREAM_PORT honest|late`.

Every reply's last part is passed on and then held for `HOLD_SECONDS` before the gateway gets
control back, so that whatever it does *after* its final send has not happened when a client that
has the whole reply pulls the trigger. `late` proves that this net catches something: there the
journal is written behind the final send.

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

from llmgw_core.config.schema import AccountingConfig, Config
from llmgw_core.gateway import Gateway
from llmgw_core.testing.canonical_plugin import CanonicalPlugin
from llmgw_core.testing.installation import at, served_by
from llmgw_server.app import Application
from llmgw_server.serve import bind, listen, serve_app

if TYPE_CHECKING:
    from llmgw_core.accounting.journal import Journal
    from llmgw_core.domain.usage import UsageRecord
    from starlette.types import Message, Receive, Scope, Send

HOLD_SECONDS = 0.1
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


class HeldApplication(Application):
    """The server's own application, which gets control back late after every last part."""

    def __init__(self, gateway: Gateway, late: LateWrites | None) -> None:
        super().__init__(gateway)
        self._late = late

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        call_id = ""

        async def held(event: Message) -> None:
            nonlocal call_id
            if event["type"] == "http.response.start":
                call_id = dict(event["headers"]).get(REQUEST_ID, b"").decode()
            await send(event)
            if event["type"] == "http.response.body" and (
                not event.get("more_body", False) or DONE in event["body"]
            ):
                await asyncio.sleep(HOLD_SECONDS)

        try:
            await super().__call__(scope, receive, held)
        finally:
            if self._late is not None and call_id:
                self._late.let_through(call_id)


def configuration(upstream_port: int) -> Config:
    """Small segments and a busy mover: a kill may hit a rotation and a transaction, too."""
    return Config(
        models={"m": served_by(at(upstream_port))},
        accounting=AccountingConfig(segment_bytes=64 * 1024, move_interval=0.05),
    )


async def serve(directory: Path, upstream_port: int, mode: str) -> None:
    listener = bind("127.0.0.1", 0)
    plugins: list[tuple[str, type[Any]]] = [("canonical", CanonicalPlugin)]
    async with Gateway.open(
        configuration(upstream_port), base_dir=directory, plugins=plugins
    ) as gateway:
        late = LateWrites(gateway.journal) if mode == "late" else None
        application = HeldApplication(gateway, late)
        listen(listener)
        print(listener.getsockname()[1], flush=True)
        await serve_app(
            application, listener, server="uvicorn", drain_seconds=1.0, stop=asyncio.Event()
        )


def end_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    print("imported", flush=True)
    if not sys.stdin.buffer.readline():
        return
    threading.Thread(target=end_with_parent, daemon=True).start()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))


if __name__ == "__main__":
    main()
