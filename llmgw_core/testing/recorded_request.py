"""What an upstream for tests received, byte for byte and taken apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    import asyncio


class RecordedRequest(msgspec.Struct, frozen=True):
    """`head` is the bytes up to and including the empty line, `headers` has lower case names in
    the order received, `connection` counts from 0 in the order of acceptance."""

    connection: int
    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    head: bytes
    body: bytes

    def header(self, name: bytes) -> bytes | None:
        """The value of the first header line of that (lower case) name."""
        return next((value for known, value in self.headers if known == name), None)

    @property
    def last(self) -> bool:
        """The client says that it wants nothing more on this connection."""
        return (self.header(b"connection") or b"").lower() == b"close"


def parse_head(head: bytes) -> tuple[str, str, tuple[tuple[bytes, bytes], ...]]:
    """Method, target and header lines of a well-formed request head. `ValueError` else."""
    first, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    method, target, _ = first.decode("latin-1").split(" ")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.strip().lower(), value.strip()))
    return method, target, tuple(headers)


async def read_body(
    reader: asyncio.StreamReader, headers: tuple[tuple[bytes, bytes], ...]
) -> bytes:
    """The whole body that the head announces: by length, in chunks, or none."""
    fields = dict(headers)
    if fields.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(fields.get(b"content-length", b"0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body
