"""From a request to the bytes of its head: pure, and refusing whatever could forge a second one.

What repeats is encoded once per origin (request line, `host`, `accept-encoding`, what a deployment
always sends); what differs is joined and checked by counting line ends, three scans in C.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Final

from llmgw_core.backends.transport.port import HttpRequest, TransportError
from llmgw_core.backends.transport.tunnel import authorization_line

if TYPE_CHECKING:
    from llmgw_core.domain.deployment import Origin
    from llmgw_core.domain.outgoing import Proxy

OWN_HEADERS: Final = frozenset(
    {
        b"accept-encoding",
        b"connection",
        b"content-length",
        b"expect",
        b"host",
        b"proxy-authorization",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""Header names that the transport decides; a request that brings one is refused."""

_NAME: Final = re.compile(rb"[a-z0-9!#$%&'*+.^_`|~-]+")
_METHOD: Final = re.compile(r"[A-Z]+")
_TARGET: Final = re.compile(r"/[\x21-\x7e]*")
_HOST: Final = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?")
_BODY_EXPECTED: Final = frozenset({"POST", "PUT", "PATCH"})
_CACHE_ENTRIES: Final = 512
_LINE: Final = b"%b: %b\r\n"
_LINES: Final = tuple(_LINE * count for count in range(8))
_DEFAULT_PORT: Final = {"http": 80, "https": 443}


def refused(message: str) -> TransportError:
    """The error for a request that must not be sent; nothing has been."""
    return TransportError("protocol", "connect", message)


def host_header(origin: Origin) -> bytes:
    """RFC 9112 section 3.2: the authority without the scheme's default port, IPv6 in brackets.

    Raises `TransportError` for a scheme other than http and https or an impossible host.
    """
    host = _host(origin)
    return host if origin.port == _DEFAULT_PORT[origin.scheme] else host + b":%d" % origin.port


def authority(origin: Origin) -> bytes:
    """The authority with its port, as CONNECT wants it. Raises like `host_header`."""
    return _host(origin) + b":%d" % origin.port


def _host(origin: Origin) -> bytes:
    if origin.scheme not in _DEFAULT_PORT:
        raise refused("the scheme of an origin is http or https")
    try:
        host = origin.host.encode("idna").decode("ascii") if origin.host else ""
    except UnicodeError:
        host = ""
    if _HOST.fullmatch(host) is None:
        raise refused("the host of the origin is not a host name or an address")
    if ":" in host:
        host = f"[{host.partition('%')[0]}]"
    return host.encode("ascii")


_Fields = tuple[tuple[bytes, bytes], ...]


class RequestEncoder:
    """Encodes request heads for one origin."""

    __slots__ = ("_names", "_prefix", "_starts", "_suffix")

    def __init__(self, origin: Origin) -> None:
        self._prefix = b""
        """Stands before the target."""
        self._suffix = (
            b" HTTP/1.1\r\nhost: " + host_header(origin) + b"\r\naccept-encoding: identity\r\n"
        )
        self._starts: dict[tuple[str, str, int], tuple[_Fields, bytes]] = {}
        self._names: set[bytes] = set()

    def encode(self, request: HttpRequest) -> bytes:
        """The head with its empty line. Raises `TransportError` (kind `protocol`, phase
        `connect`) for anything that is not one well-formed head."""
        common, method = request.common, request.method
        key = (method, request.target, id(common))
        known = self._starts.get(key)
        if known is None or known[0] is not common:
            # The tuple is kept with its bytes: as long as it lives, nothing else has its id.
            known = self._starts[key] = (common, self._start(request))
        own = self._encoded(request.headers)
        if request.body or method in _BODY_EXPECTED:
            return b"%b%bcontent-length: %d\r\n\r\n" % (known[1], own, len(request.body))
        return known[1] + own + b"\r\n"

    def _start(self, request: HttpRequest) -> bytes:
        """Request line, the transport's own headers and the common ones."""
        if _METHOD.fullmatch(request.method) is None:
            raise refused("the method is not a word of capital letters")
        if _TARGET.fullmatch(request.target) is None:
            raise refused("the target is not a path of printable ASCII characters")
        if len(self._starts) >= _CACHE_ENTRIES:
            self._starts.clear()
        target = self._prefix + request.target.encode()
        line = request.method.encode() + b" " + target + self._suffix
        return line + self._encoded(request.common)

    def _encoded(self, fields: _Fields) -> bytes:
        flat = tuple(chain.from_iterable(fields))
        if not self._names.issuperset(flat[::2]):
            for name in flat[::2]:
                self._check_name(name)
        count = len(fields)
        text = (_LINES[count] if count < len(_LINES) else _LINE * count) % flat
        if text.count(b"\n") != count or text.count(b"\r") != count or b"\0" in text:
            raise refused("a header value contains CR, LF or NUL")
        return text

    def _check_name(self, name: bytes) -> None:
        if _NAME.fullmatch(name) is None:
            raise refused("a header name is not a token in lower case")
        if name in OWN_HEADERS:
            raise refused(f"the header {name.decode('ascii')!r} is the transport's own")
        if len(self._names) < _CACHE_ENTRIES:
            self._names.add(name)


class ProxiedEncoder(RequestEncoder):
    """Encodes request heads for an origin without TLS behind a forward proxy: the absolute form,
    and what the proxy wants to know, which follows a password that changes."""

    __slots__ = ("_proxy",)

    def __init__(self, origin: Origin, proxy: Proxy) -> None:
        super().__init__(origin)
        self._prefix = b"http://" + host_header(origin)
        self._proxy = proxy

    def encode(self, request: HttpRequest) -> bytes:
        """See `RequestEncoder.encode`."""
        line, end, rest = super().encode(request).partition(b"\r\n")
        return line + end + authorization_line(self._proxy) + rest
