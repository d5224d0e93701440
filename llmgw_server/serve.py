"""Serving: listeners, the ASGI server inside this process, signals, and the order of the end.

The end of a process: not ready any more, nothing is accepted, idle connections are closed, running
calls have `drain_seconds`, then the gateway closes, which settles everything; exit code 0. A
second signal ends at once. Servers are imported when one is chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import logging
import os
import resource
import signal
from functools import partial
from typing import TYPE_CHECKING, Protocol

from llmgw_server.accepting import Acceptor
from llmgw_server.app import Application, create_app
from llmgw_server.listening import ServeError, close_all, listen
from llmgw_server.reloading import reloading

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from llmgw_core.config.schema import ServerConfig
    from llmgw_core.gateway import Gateway
    from llmgw_server.listening import Listener

logger = logging.getLogger(__name__)

_TURNS = 3
"""Of the event loop, in which it reads what lies ready on all connections."""
GRACE_SECONDS = 5.0
"""What connections may take to end after the drain: they flush what clients have not read yet."""


class Server(Protocol):
    """An ASGI server behind our listeners; see `SERVERS`."""

    def connect(self, listener: Listener, ended: Callable[[object], None]) -> asyncio.BaseProtocol:
        """The protocol of a new connection; calls `ended` with itself when that is no more."""

    async def drain(self, listener: Listener) -> None:
        """No new requests on the connections of `listener`; idle ones end."""

    async def finished(self) -> None:
        """Wait for what outlives connections."""


def _hypercorn(app: Application, settings: ServerConfig) -> Server:
    from llmgw_server.hypercorn_server import HypercornServer  # noqa: PLC0415 - only if chosen

    return HypercornServer(app, settings)


def _uvicorn(app: Application, settings: ServerConfig) -> Server:
    from llmgw_server.uvicorn_server import UvicornServer  # noqa: PLC0415 - only if chosen

    return UvicornServer(app, settings)


SERVERS: dict[str, Callable[[Application, ServerConfig], Server]] = {
    "hypercorn": _hypercorn,
    "uvicorn": _uvicorn,
}


async def serve_app(
    app: Application,
    listeners: Sequence[Listener],
    *,
    server: str,
    settings: ServerConfig,
    stop: asyncio.Event,
) -> None:
    """Serve on `listeners`, the public one first, until `stop` is set; let running calls finish
    for `settings.drain_seconds`, end the others, and return within `GRACE_SECONDS` more. The
    listeners get closed.

    `server` is a key of `SERVERS`.
    """
    serving = SERVERS[server](app, settings)
    acceptors = [
        Acceptor(
            listener,
            partial(serving.connect, listener),
            limit=settings.max_connections,
            handshake=settings.head_seconds,
        )
        for listener in listeners
    ]
    certificates = [listener.certificates for listener in listeners if listener.certificates]
    watching = [asyncio.create_task(each.watch()) for each in certificates]
    try:
        await stop.wait()
        app.draining = True
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + settings.drain_seconds
        # Admin pages and metrics on listeners of their own stay until the last call has ended.
        await _end(serving, acceptors[:1], app, settings.drain_seconds)
        await _finish(serving, app, ends_at - loop.time())
        await _end(serving, acceptors[1:], app, 0.0)
    finally:
        app.close()
        for task in watching:
            task.cancel()
        for acceptor in acceptors:
            acceptor.close()
            acceptor.abort()


async def _end(
    serving: Server, acceptors: Sequence[Acceptor], app: Application, patience: float
) -> None:
    """Accept nothing more, wait for the connections, and end what they run after `patience`
    seconds."""
    for acceptor in acceptors:
        acceptor.close()
    # What has been sent before is read first, so that it is answered and not cut off.
    for _ in range(_TURNS):
        await asyncio.sleep(0)
    for acceptor in acceptors:
        acceptor.drop_handshakes()
        await serving.drain(acceptor.listener)
    ends = [asyncio.create_task(acceptor.ended()) for acceptor in acceptors]
    if not ends:
        return
    _, waiting = await asyncio.wait(ends, timeout=patience)
    if waiting:
        app.end_calls()
        _, waiting = await asyncio.wait(ends, timeout=GRACE_SECONDS)
    if waiting:
        for acceptor in acceptors:
            acceptor.abort()
        await asyncio.wait(ends, timeout=GRACE_SECONDS)
    for task in ends:
        task.cancel()


async def _finish(serving: Server, app: Application, patience: float) -> None:
    """Wait for what outlives its connection, and end it after `patience` seconds."""
    finished = asyncio.create_task(serving.finished())
    _, waiting = await asyncio.wait((finished,), timeout=max(patience, 0.0))
    if waiting:
        app.end_calls()
        await asyncio.wait((finished,), timeout=GRACE_SECONDS)
    finished.cancel()


class Signals:
    """SIGTERM and SIGINT: the first asks for the end, a second one ends at once. SIGHUP before
    anybody can reload is remembered in `hung_up`."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.hung_up = False
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received, number)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    async def started(self) -> None:
        """From now on a signal drains; before, it cancelled the start."""
        await asyncio.sleep(0)  # a signal that came just now cancels here, not in the clean-up
        self._starting = None

    def _hang_up(self) -> None:
        self.hung_up = True

    def _received(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            os._exit(128 + number)
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()


async def _session(
    opening: AbstractAsyncContextManager[Gateway],
    listeners: Sequence[Listener],
    server: str,
    ready: Callable[[Gateway, str], Awaitable[None]],
) -> None:
    signals = Signals()
    try:
        async with opening as gateway:
            for listener in listeners:
                listen(listener.socket)
            for listener in listeners[1:]:
                logger.info("%s: %s", " and ".join(sorted(listener.pages)), listener.url)
            _tune_garbage_collection()
            await ready(gateway, listeners[0].url)
            await signals.started()
            async with reloading(gateway) as triggers:
                if signals.hung_up:
                    triggers.hang_up()
                await serve_app(
                    create_app(gateway),
                    listeners,
                    server=server,
                    settings=gateway.config.server,
                    stop=signals.stop,
                )
    except asyncio.CancelledError:
        if not signals.stop.is_set():
            raise


def _tune_garbage_collection() -> None:
    """What has been made until now stays for ever, so the collector need not look at it again;
    and calls make hardly any cycles, so it need not look as often. Saves about 5 % of a call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


def run(
    opening: AbstractAsyncContextManager[Gateway],
    listeners: Sequence[Listener],
    *,
    server: str,
    ready: Callable[[Gateway, str], Awaitable[None]],
) -> None:
    """Open the gateway, call `ready` with it and its URL, and serve until a signal.

    `listeners` are bound, the public one is the first, and get closed. Raises what opening
    raises, and `ServeError`.
    """
    with contextlib.ExitStack() as stack:
        stack.callback(close_all, listeners)
        _require(server)
        _allow_files()
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_session(opening, listeners, server, ready))


def _allow_files() -> None:
    """As many open files as this process may have: each connection is one, and most systems start
    with fewer than are allowed."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # some systems have a lower one of their own
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _require(server: str) -> None:
    """Say that a server is missing before anything is started and called ready."""
    if importlib.util.find_spec(server) is None:
        extra = "fast" if server == "uvicorn" else "server"
        raise ServeError(f"The server {server} is not installed: pip install 'llmgw[{extra}]'.")


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - only if chosen
    except ImportError:
        return None
    return uvloop.new_event_loop
