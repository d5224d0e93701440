"""Serving: the listener, the ASGI server inside this process, signals, and the order of the end.

The end of a process: stop accepting, let running calls finish for `drain_seconds`, then close the
gateway, which settles everything; exit code 0. A second SIGINT ends at once. Servers are imported
when one is chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib.util
import logging
import math
import os
import signal
import socket
from typing import TYPE_CHECKING, Protocol

from llmgw_server.app import Application, create_app
from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator
    from contextlib import AbstractAsyncContextManager

    from llmgw_core.gateway import Gateway

logger = logging.getLogger(__name__)

BACKLOG = 1024
KEEP_ALIVE_SECONDS = 75
"""Longer than the usual client pool keeps idle connections, so that clients close first."""
HEAD_BYTES = 64 * 1024
HTTP2_STREAMS = 1000
GRACE_SECONDS = 5.0
"""What a server may take to end after the drain: it flushes what clients have not read yet."""


class ServeError(CommandError):
    """Serving is impossible; the text is one sentence with the remedy."""


class Server(Protocol):
    """Serves `app` on `listener` until `stop` is set; see `SERVERS`."""

    def __call__(
        self, app: Application, listener: socket.socket, patience: float, stop: asyncio.Event
    ) -> Coroutine[object, object, None]:
        """Return when the last connection has ended, at the latest `patience` seconds after
        `stop`."""


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. Raises `ServeError`; port 0 takes any."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ServeError(f"The host '{host}' is not an address of this machine.") from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise _unavailable(host, port, error) from error
    return listener


def listen(listener: socket.socket) -> None:
    """Begin to accept on a bound socket. Raises `ServeError` when somebody was faster."""
    try:
        listener.listen(BACKLOG)
    except OSError as error:
        host, port = listener.getsockname()[:2]
        raise _unavailable(host, port, error) from error


def _unavailable(host: str, port: int, error: OSError) -> ServeError:
    if error.errno == errno.EADDRINUSE:
        return ServeError(f"Port {port} on {host} is already in use; choose another with --port.")
    if error.errno == errno.EACCES:
        return ServeError(f"Port {port} needs privileges; choose one above 1023 with --port.")
    return ServeError(f"Cannot listen on {host}, port {port}: {os.strerror(error.errno or 0)}.")


def url_of(listener: socket.socket) -> str:
    """The URL under which a client on this machine reaches `listener`."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only shown
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _hypercorn(
    app: Application, listener: socket.socket, patience: float, stop: asyncio.Event
) -> None:
    from hypercorn.asyncio import serve as hypercorn_serve  # noqa: PLC0415 - only if chosen
    from hypercorn.config import Config  # noqa: PLC0415 - only if chosen

    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.backlog = BACKLOG
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    # It is no limit of the wait for a request, but of every pause of the client, even while it
    # listens to a stream.
    config.read_timeout = None
    config.h11_max_incomplete_size = HEAD_BYTES
    config.keep_alive_max_requests = 2**31
    config.h2_max_concurrent_streams = HTTP2_STREAMS
    config.graceful_timeout = patience
    config.include_server_header = False
    config.include_date_header = False
    config.accesslog = None
    config.errorlog = logging.getLogger("hypercorn.error")
    await hypercorn_serve(app, config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]


async def _uvicorn(
    app: Application, listener: socket.socket, patience: float, stop: asyncio.Event
) -> None:
    import uvicorn  # noqa: PLC0415 - only if chosen

    class Embedded(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def on_tick(self, counter: int) -> bool:
            return stop.is_set() or await super().on_tick(counter)

    server = Embedded(
        uvicorn.Config(
            app,
            loop="none",
            http=app.uvicorn_protocol(),
            ws="none",
            interface="asgi3",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=math.ceil(patience),
        )
    )
    await server.serve(sockets=[listener])


SERVERS: dict[str, Server] = {"hypercorn": _hypercorn, "uvicorn": _uvicorn}


async def serve_app(
    app: Application,
    listener: socket.socket,
    *,
    server: str,
    drain_seconds: float,
    stop: asyncio.Event,
) -> None:
    """Serve on a bound `listener` until `stop` is set, let running calls finish for
    `drain_seconds`, end the others, and return within `GRACE_SECONDS` more.

    `server` is a key of `SERVERS`. Raises `ServeError`.
    """
    # Calls are ended here and not by the servers: both report what they cancel as crashes.
    patience = drain_seconds + GRACE_SECONDS / 2
    serving = asyncio.create_task(SERVERS[server](app, listener, patience, stop))
    asked = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({serving, asked}, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait({serving}, timeout=drain_seconds)
        app.end_calls()
        await asyncio.wait({serving}, timeout=GRACE_SECONDS)
    finally:
        asked.cancel()
        serving.cancel()
        await asyncio.wait({serving, asked}, timeout=GRACE_SECONDS)
    if serving.done() and not serving.cancelled():
        serving.result()


class Signals:
    """SIGTERM and SIGINT: the first asks for the end, a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self._starting = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._received, number)

    async def started(self) -> None:
        """From now on a signal drains; before, it cancelled the start."""
        await asyncio.sleep(0)  # a signal that came just now cancels here, not in the clean-up
        self._starting = None

    def _received(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            if number == signal.SIGINT:
                os._exit(130)
            return
        self.stop.set()
        if self._starting is not None:
            self._starting.cancel()


async def _session(
    opening: AbstractAsyncContextManager[Gateway],
    listener: socket.socket,
    server: str,
    ready: Callable[[Gateway, str], Awaitable[None]],
) -> None:
    signals = Signals()
    try:
        async with opening as gateway:
            listen(listener)
            _tune_garbage_collection()
            await ready(gateway, url_of(listener))
            await signals.started()
            await serve_app(
                create_app(gateway),
                listener,
                server=server,
                drain_seconds=gateway.config.server.drain_seconds,
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
    listener: socket.socket,
    *,
    server: str,
    ready: Callable[[Gateway, str], Awaitable[None]],
) -> None:
    """Open the gateway, call `ready` with it and its URL, and serve until a signal.

    `listener` is bound and gets closed. Raises what opening raises, and `ServeError`.
    """
    with contextlib.closing(listener):
        _require(server)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_session(opening, listener, server, ready))


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
