"""The reply on an httptools connection: reading, and giving the connection back."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.transport.port import TransportError
from llmgw_core.backends.transport.reply_parsing import BODY, DONE

if TYPE_CHECKING:
    from llmgw_core.backends.transport.connection import Connection


class HttptoolsReply(msgspec.Struct, eq=False):
    """See `UpstreamReply`. Header names are in lower case."""

    _connection: Connection | None
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    reused: bool
    _failure: TransportError | None = None

    async def chunk(self) -> bytes:
        """See `UpstreamReply.chunk`."""
        connection = self._connection
        if connection is None:
            return self._afterwards()
        while not connection.parts:
            if connection.phase != BODY or connection.failure is not None:
                return self._finish(connection)
            await self._more(connection, connection.idle_deadline())
        data = connection.take()
        if connection.phase == DONE:
            self._finish(connection)
        return data

    def whole(self, limit: int) -> bytes | None:
        """See `UpstreamReply.whole`."""
        connection = self._connection
        if connection is None or connection.phase != DONE or connection.failure is not None:
            return None
        parts = connection.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        if len(body) > limit:
            return None
        self._connection = None
        connection.release()
        return body

    async def read(self, limit: int) -> bytes:
        """See `UpstreamReply.read`."""
        connection = self._connection
        if connection is None:
            return self._afterwards()
        pieces: list[bytes] = []
        size = 0
        while True:
            if connection.parts:
                piece = connection.take()
                size += len(piece)
                if size > limit:
                    connection.fail("too_large", f"the reply is larger than {limit} bytes")
                    raise self._give_up(
                        TransportError(
                            "too_large",
                            "body",
                            f"the reply is larger than {limit} bytes",
                            reused=self.reused,
                            received=True,
                        )
                    )
                pieces.append(piece)
            if connection.phase != BODY or connection.failure is not None:
                self._finish(connection)
                return pieces[0] if len(pieces) == 1 else b"".join(pieces)
            await self._more(
                connection, min(connection.idle_deadline(), connection.total_deadline())
            )

    def abort(self) -> None:
        """See `UpstreamReply.abort`."""
        connection = self._connection
        if connection is None:
            return
        if connection.phase == DONE:
            self._finish(connection)
            return
        connection.fail("reset", "the reply was given up")
        self._give_up(connection.error())

    def __del__(self) -> None:
        connection = self._connection
        if connection is not None:
            warnings.warn(
                "a reply was neither read to its end nor aborted",
                ResourceWarning,
                stacklevel=2,
                source=self,
            )
            connection.give_up()

    async def _more(self, connection: Connection, deadline: float) -> None:
        waiter = connection.wait(deadline)
        try:
            await waiter
        except BaseException:
            connection.waiter = None
            raise

    def _finish(self, connection: Connection) -> bytes:
        if connection.failure is not None:
            raise self._give_up(connection.error())
        self._connection = None
        connection.release()
        return b""

    def _give_up(self, error: TransportError) -> TransportError:
        self._connection = None
        # Not the same one: where it is raised is in here, a reference cycle.
        self._failure = _again(error)
        return error

    def _afterwards(self) -> bytes:
        failure = self._failure
        if failure is None:
            return b""
        raise _again(failure)


def _again(error: TransportError) -> TransportError:
    return TransportError(
        error.kind, error.phase, str(error), reused=error.reused, received=error.received
    )
