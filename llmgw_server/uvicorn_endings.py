"""How a connection on uvicorn ends when its client does not do what clients do: with an error
behind the replies to the requests before, or with the reply that is ready.

uvicorn's own answers are plain text, and would be written in the middle of a reply.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from llmgw_server.asgi import SWEEP_INTERVAL
from llmgw_server.broken_requests import refusal
from llmgw_server.uvicorn_calls import STATUS_LINES, CallCycle

if TYPE_CHECKING:
    from llmgw_core.domain.errors import GatewayError
    from llmgw_server.app import Surface
    from llmgw_server.outbox import Outbox

HALF_OPEN_SECONDS = SWEEP_INTERVAL
"""How long a client that has shut its sending side down is served: it may have left."""


class Broken:
    """Stands in the pipeline for bytes that are no request."""

    def __init__(self, error: GatewayError) -> None:
        self.error = error


class Endings(HttpToolsProtocol):
    """The part of `CallProtocol` that ends connections."""

    surface: Surface
    outbox: Outbox
    write_seconds: float
    _running: CallCycle | None = None

    def _reject(self, error: GatewayError) -> None:
        """What comes is no request, or not the body of one: the connection ends with an error,
        behind the replies to the requests before."""
        if self.transport.is_closing():
            return
        newest: Any = self.cycle
        if newest is None or newest.response_complete:
            if newest is not None and newest.more_body:
                self.outbox.flush()
                self.transport.close()  # the rest of a body that was not wanted: it has its reply
                self._abort_unread()
            else:
                self._send_refusal(error)
        elif not newest.more_body:
            self._reject_later(error)
        elif newest is not self._running and self.pipeline:
            self.pipeline.popleft()
            self._reject_later(error)
        elif newest.begun if isinstance(newest, CallCycle) else newest.response_started:
            self.transport.abort()  # in the middle of a reply nothing can be said
        else:
            self._send_refusal(error)

    def _reject_later(self, error: GatewayError) -> None:
        self.flow.pause_reading()
        item: Any = (Broken(error), self.app)
        self.pipeline.appendleft(item)

    def _send_refusal(self, error: GatewayError) -> None:
        headers, body = refusal(error, self.surface.gateway.new_call_id())
        self.outbox.flush()
        lines = [name + b": " + value for name, value in headers]
        self.transport.write(STATUS_LINES[error.status] + b"\r\n".join([*lines, b"", body]))
        self.transport.close()
        self._abort_unread()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more. Most have left then; one that has only shut its side down
        gets what is ready within `HALF_OPEN_SECONDS`, as it does on Hypercorn."""
        self.outbox.flush()
        newest: Any = self.cycle
        waiting = newest is not None and not (newest.response_complete or newest.more_body)
        if not waiting or self.scheme == "https":  # TLS knows no half-open connections
            return False
        newest.keep_alive = False
        self.loop.call_later(HALF_OPEN_SECONDS, self._give_up)
        return True

    def _abort_unread(self) -> None:
        """A connection that closes waits until its client has taken what was sent, for ever: from
        now on it has `write_seconds`."""
        if not self.transport.get_write_buffer_size():
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        timer = self.loop.call_later(self.write_seconds, self.transport.abort)
        self.timeout_keep_alive_task = timer  # which the end of the connection cancels

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
