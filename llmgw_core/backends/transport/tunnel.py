"""Through a forward proxy (RFC 9110, section 9.3.6): CONNECT for https origins.

Origins without TLS are asked for with the absolute form instead (RFC 9112, section 3.2.2), because
proxies allow CONNECT to TLS ports only: see `request_bytes`. Names of origins are resolved by the
proxy. No message of an error here contains a user or a password.
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Final

from llmgw_core.backends.transport.port import TransportError, TransportKind

if TYPE_CHECKING:
    import ssl

    from llmgw_core.domain.outgoing import Proxy

MAX_HEAD: Final = 16384
"""Bytes that a proxy may answer to CONNECT with."""

_STATUS: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: [^\r\n]*)?\r\n")
_KINDS: Final[dict[int, TransportKind]] = {408: "timeout", 504: "timeout"}


def proxy_authorization(proxy: Proxy) -> bytes:
    """The value of `proxy-authorization` (RFC 7617); empty without a user."""
    if not proxy.user:
        return b""
    return b"Basic " + b64encode(f"{proxy.user}:{proxy.password.value}".encode())


def authorization_line(proxy: Proxy) -> bytes:
    """The header's line with its CRLF; empty without a user."""
    value = proxy_authorization(proxy)
    return b"proxy-authorization: " + value + b"\r\n" if value else b""


def refusal(status: int) -> TransportError:
    """What a proxy's answer to CONNECT means that is not 2xx."""
    if status == 407:
        message = "the proxy wants other credentials (407)"
        return TransportError("refused", "connect", message)
    kind = _KINDS.get(status, "refused")
    return TransportError(kind, "connect", f"the proxy opens no connection ({status})")


async def open_tunnel(
    loop: asyncio.AbstractEventLoop,
    proxy: Proxy,
    authority: bytes,
    context: ssl.SSLContext | None,
) -> asyncio.Transport:
    """A connection through `proxy` to `authority` (`host:port`) on which nothing was said yet.
    `context`: TLS with the proxy itself. Raises `TransportError` and `OSError`."""
    transport, answer = await loop.create_connection(
        lambda: _Answer(loop),
        proxy.host,
        proxy.port,
        ssl=context,
        server_hostname=None if context is None else proxy.host,
    )
    try:
        transport.write(
            b"CONNECT " + authority + b" HTTP/1.1\r\nhost: " + authority + b"\r\n"
            + authorization_line(proxy) + b"\r\n"
        )  # fmt: skip
        _judge(await answer.head)
    except BaseException:
        transport.abort()
        raise
    return transport


class _Answer(asyncio.Protocol):
    """Collects the head of the proxy's answer in `head`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.head: asyncio.Future[bytes] = loop.create_future()
        self._data = b""

    def data_received(self, data: bytes) -> None:
        self._data += data
        if self.head.done():
            return
        if len(self._data) > MAX_HEAD:
            self._fail("protocol", "the proxy's answer is too long")
        elif b"\r\n\r\n" in self._data:
            self.head.set_result(self._data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.head.done():
            self._fail("reset", f"the proxy closed the connection ({exc or 'end of data'})")

    def _fail(self, kind: TransportKind, message: str) -> None:
        self.head.set_exception(TransportError(kind, "connect", message))
        self.head.exception()  # whoever waited may have been cancelled, and nobody would look


def _judge(head: bytes) -> None:
    """Raise `TransportError` unless the tunnel stands."""
    match = _STATUS.match(head)
    if match is None:
        raise TransportError("protocol", "connect", "the proxy's answer is not HTTP")
    status = int(match[1])
    if not 200 <= status < 300:
        raise refusal(status)
    if not head.endswith(b"\r\n\r\n") or head.count(b"\r\n\r\n") != 1:
        message = "the proxy said more than that the connection stands"
        raise TransportError("protocol", "connect", message)
