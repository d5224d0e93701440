"""uvicorn's protocol, with the short way for calls, behind our listeners. HTTP/1.1 only.

Who accepts is ours (`accepting`); uvicorn's `Server` is left out, since its loop looks for the end
ten times a second and lets calls in until then.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import uvicorn
from uvicorn.server import ServerState

from llmgw_server.uvicorn_protocol import protocol_class

if TYPE_CHECKING:
    from collections.abc import Callable

    from llmgw_core.config.schema import ServerConfig
    from llmgw_server.app import Application
    from llmgw_server.listening import Listener
    from llmgw_server.uvicorn_protocol import CallProtocol


class _Listening:
    """What the connections of one listener share."""

    def __init__(self, app: Application, listener: Listener, settings: ServerConfig) -> None:
        surface = app.surface(listener)
        self.state = ServerState()
        self.protocol: type[CallProtocol] = protocol_class(
            surface,
            rules=listener.rules,
            cycles=app.cycles,
            body_seconds=app.gateway.config.requests.body_seconds,
            head_seconds=settings.head_seconds,
            write_seconds=settings.write_seconds,
            head_bytes=settings.head_bytes,
        )
        self.config = uvicorn.Config(
            surface,
            loop="none",
            http=self.protocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            # Only shown to uvicorn; the protocol works with fractions, too.
            timeout_keep_alive=settings.keep_alive_seconds,  # type: ignore[arg-type]
        )
        self.config.load()


class UvicornServer:
    """Serves `app` on connections that others accept."""

    def __init__(self, app: Application, settings: ServerConfig) -> None:
        self._app = app
        self._settings = settings
        self._listening: dict[Listener, _Listening] = {}

    def connect(self, listener: Listener, ended: Callable[[object], None]) -> asyncio.BaseProtocol:
        """The protocol of a new connection."""
        shared = self._listening.get(listener)
        if shared is None:
            shared = _Listening(self._app, listener, self._settings)
            self._listening[listener] = shared
        protocol = shared.protocol(config=shared.config, server_state=shared.state, app_state={})
        protocol.ended_with = ended
        return protocol

    async def drain(self, listener: Listener) -> None:
        """No new requests on the connections of `listener`; idle ones end."""
        shared = self._listening.get(listener)
        if shared is not None:
            for connection in list(shared.state.connections):
                connection.shutdown()

    async def finished(self) -> None:
        """Wait for the tasks of calls whose connections have ended."""
        tasks = {task for shared in self._listening.values() for task in shared.state.tasks}
        if tasks:
            await asyncio.wait(tasks)
