"""A blocking HTTP/1.1 client that sends whatever bytes it is given and hides nothing of what
comes back; for tests that run a server in another thread or process."""

from __future__ import annotations

import json
import socket
from typing import Any, NamedTuple, Self, cast


class Answer(NamedTuple):
    """A reply as it came; header names in lower case. `raw` is all of it."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    raw: bytes

    def header(self, name: str) -> str | None:
        """The value of a header that may come once; None if it did not."""
        values = [value for known, value in self.headers if known == name]
        assert len(values) < 2, f"{name} came twice: {values}"
        return values[0] if values else None

    @property
    def error(self) -> dict[str, Any]:
        """The object in OpenAI's error envelope."""
        return cast("dict[str, Any]", json.loads(self.body)["error"])


class Wire:
    """One blocking connection to a port of this machine; a context manager."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send bytes."""
        self.socket.sendall(data)

    def more(self) -> None:
        """Wait for bytes. Raises `EOFError` at the end, `TimeoutError`."""
        try:
            data = self.socket.recv(65536)
        except ConnectionError:
            data = b""
        if not data:
            raise EOFError(self._rest)
        self._rest += data

    def _take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self.more()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    def _until(self, end: bytes) -> bytes:
        while end not in self._rest:
            self.more()
        return self._take(self._rest.index(end) + len(end))

    def answer(self, *, head_only: bool = False) -> Answer:
        """The next final reply; interim ones are skipped. Raises `EOFError` with what came when
        the server closes before its end."""
        head = self._until(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 1"):
            head = self._until(b"\r\n\r\n")
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        headers = [
            (name.lower(), value.strip()) for name, _, value in (x.partition(":") for x in lines)
        ]
        fields, raw = dict(headers), head
        status = int(first.split()[1])
        body = b""
        if head_only:
            pass
        elif "content-length" in fields:
            body = self._take(int(fields["content-length"]))
            raw += body
        elif fields.get("transfer-encoding") == "chunked":
            while size := int(self._until(b"\r\n"), 16):
                body += self._take(size)
                assert self._take(2) == b"\r\n"
            assert self._until(b"\r\n") == b"\r\n"
            raw += body
        else:
            body = self.rest()
            raw += body
        return Answer(status, headers, body, raw)

    def see(self, data: bytes) -> None:
        """Wait until `data` has come; it stays there to be read."""
        while data not in self._rest:
            self.more()

    def rest(self) -> bytes:
        """Everything until the server closes."""
        try:
            while True:
                self.more()
        except EOFError:
            data, self._rest = self._rest, b""
            return data
