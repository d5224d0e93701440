"""A forward proxy on a real socket, for tests: CONNECT and the absolute form, with a password.

It resolves names by a table of its own, so that tests can have hosts that exist behind it only,
and passes on what happens to a connection: its end as an end, a reset as a reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from base64 import b64encode
from typing import TYPE_CHECKING, Self

from llmgw_core.testing.recorded_request import parse_head

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping
    from types import TracebackType

_CHUNK = 65536


class ForwardProxy:
    """An asynchronous context manager. `user` and `password` are asked for if given; `names` are
    hosts that only the proxy knows; `ssl_context` makes it speak TLS itself."""

    def __init__(
        self,
        *,
        user: str = "",
        password: str = "",
        names: Mapping[str, str] | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.user, self.password = user, password
        self.seen: list[tuple[str, str]] = []
        """Method and target of every request that the proxy was asked itself, refused or not."""
        self.accepted = 0
        self._names = dict(names or {})
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None
        self._tasks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @property
    def url(self) -> str:
        """Without user and password."""
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://{self.host}:{self.port}"

    async def __aenter__(self) -> Self:
        sock = socket.create_server((self.host, 0), backlog=1024)
        self._server = await asyncio.start_server(self._accept, sock=sock, ssl=self._ssl_context)
        self.port = sock.getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task, writer in self._tasks.items():
            task.cancel()
            writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks[task] = writer
        task.add_done_callback(self._tasks.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = parse_head(head)
            self.seen.append((method, target))
            if not self._admits(head):
                await _answer(writer, b"407 Proxy Authentication Required")
            elif method == "CONNECT":
                await self._tunnel(target, reader, writer)
            else:
                await self._pass_on(head, reader, writer)
        except ConnectionResetError:
            _reset(writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _admits(self, head: bytes) -> bool:
        if not self.user:
            return True
        pair = b64encode(f"{self.user}:{self.password}".encode())
        return b"proxy-authorization: basic " + pair.lower() in head.lower() and pair in head

    async def _tunnel(
        self, authority: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        host, _, port = authority.rpartition(":")
        there = await self._connect(host, int(port), writer)
        if there is None:
            return
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await self._join((reader, writer), there, _copy(reader, there[1]))

    async def _pass_on(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Requests for one origin, one after the other, each in the absolute form."""
        authority = _absolute(head)[1].decode()
        host, _, port = authority.partition(":")
        there = await self._connect(host, int(port or 80), writer)
        if there is None:
            return
        await self._join((reader, writer), there, self._requests(head, reader, there[1]))

    async def _requests(
        self, head: bytes, reader: asyncio.StreamReader, there: asyncio.StreamWriter
    ) -> None:
        while True:
            method, _, path = _absolute(head)
            lines = head.split(b"\r\n")[1:]
            kept = [line for line in lines if not line.lower().startswith(b"proxy-")]
            there.write(b"\r\n".join([method + b" " + path + b" HTTP/1.1", *kept]))
            await _copy(reader, there, size=_content_length(head))
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            self.seen.append(parse_head(head)[:2])

    async def _connect(
        self, host: str, port: int, writer: asyncio.StreamWriter
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            return await asyncio.open_connection(self._names.get(host, host.strip("[]")), port)
        except OSError:
            await _answer(writer, b"502 Bad Gateway")
            return None

    async def _join(
        self,
        here: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        there: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        onwards: object,
    ) -> None:
        """Both directions until one of them has ended; how it ended is passed on."""
        assert asyncio.iscoroutine(onwards)
        up = asyncio.ensure_future(onwards)
        down = asyncio.ensure_future(_copy(there[0], here[1]))
        try:
            done, _ = await asyncio.wait({up, down}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except ConnectionResetError:
            _reset(there[1])
            raise
        finally:
            for task in (up, down):
                task.cancel()
            there[1].close()
            await asyncio.gather(up, down, return_exceptions=True)


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, size: int | None = None
) -> None:
    while size is None or size > 0:
        data = await reader.read(_CHUNK if size is None else min(size, _CHUNK))
        if not data:
            return
        size = None if size is None else size - len(data)
        writer.write(data)
        await writer.drain()


def _absolute(head: bytes) -> tuple[bytes, bytes, bytes]:
    """Method, authority and path of a request in the absolute form."""
    method, target, _ = head.partition(b"\r\n")[0].split(b" ")
    authority, slash, path = target.removeprefix(b"http://").partition(b"/")
    return method, authority, slash + path


def _content_length(head: bytes) -> int:
    for name, value in parse_head(head)[2]:
        if name == b"content-length":
            return int(value)
    return 0


async def _answer(writer: asyncio.StreamWriter, status: bytes) -> None:
    writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST, unless it is closed."""
    if not writer.transport.is_closing():
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
