"""Where a gateway listens, and one HTTP exchange with it.

An address is a URL, or that of the listener for admin pages in a configuration: then a Unix socket
is used as well, and TLS trusts exactly the certificate that the configuration names.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import msgspec

from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    from llmgw_core.config.schema import Config

SECONDS = 10.0
"""For a running gateway to answer."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 -- not bound here


class Unreachable(CommandError):
    """Nobody answers there."""


class Address(NamedTuple):
    """Where a gateway is: `unix` or `host` and `port`. `certificate` is a PEM file with its
    certificate; without one, the authorities of this machine count. `url` is for people."""

    url: str
    host: str = ""
    port: int | None = None
    tls: bool = False
    certificate: str = ""
    unix: str = ""


def address_of(url: str) -> Address:
    """The address that a user has given. Raises `CommandError`."""
    parts = urlsplit(url)
    try:
        if parts.scheme in {"http", "https"} and parts.hostname:
            return Address(url, parts.hostname, parts.port, parts.scheme == "https")
    except ValueError as error:
        raise Unreachable(f"The gateway at {url} does not answer: {error}.") from None
    raise CommandError(f"'{url}' is no URL of a gateway; write http://HOST:PORT.")


def admin_address(config: Config) -> Address:
    """Where a gateway with this configuration serves its admin pages. Raises `Unreachable` when it
    chooses its port by itself."""
    listener = config.server.admin or config.server
    tls = listener.tls
    certificate = tls.certificate if tls is not None else ""
    if listener.unix:
        return Address(
            f"unix:{listener.unix}", "localhost", None, bool(tls), certificate, listener.unix
        )
    if not listener.port:
        raise Unreachable("The gateway chooses the port of its admin pages itself; give --url.")
    host = _EVERYWHERE.get(listener.host, listener.host)
    shown = f"[{host}]" if ":" in host else host
    url = f"{'https' if tls else 'http'}://{shown}:{listener.port}"
    return Address(url, host, listener.port, bool(tls), certificate)


def exchange(address: Address, target: str, key: str, body: object = None) -> tuple[int, bytes]:
    """Status and body of the reply to a GET, or to a POST of `body`. Raises `Unreachable`."""
    headers = {"authorization": f"Bearer {key}"}
    data = None
    if body is not None:
        headers["content-type"] = "application/json"
        data = msgspec.json.encode(body)
    try:
        connection = _connection(address)
        try:
            connection.request("GET" if data is None else "POST", target, data, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise Unreachable(f"The gateway at {address.url} does not answer: {error}.") from None


def _connection(address: Address) -> http.client.HTTPConnection:
    context = _context(address.certificate) if address.tls else None
    if address.unix:
        return _UnixConnection(address.unix, context)
    if context is not None:
        return http.client.HTTPSConnection(
            address.host, address.port, timeout=SECONDS, context=context
        )
    return http.client.HTTPConnection(address.host, address.port, timeout=SECONDS)


def _context(certificate: str) -> ssl.SSLContext:
    if not certificate:
        return ssl.create_default_context()
    context = ssl.create_default_context(cafile=certificate)
    # It is exactly that certificate which is trusted, whatever name it was made for.
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, context: ssl.SSLContext | None) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path
        self._context = context

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock)
