"""Where the proxy listens: the public listener, and one each for admin pages and metrics if the
configuration says so. Sockets are bound before the gateway opens, so that a port that is taken
is known at once, and listen when it is ready.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_server.certificates import Certificates
from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.config.schema import ListenerConfig, ServerConfig
    from llmgw_server.pages import Part

BACKLOG = 1024
ALL_PAGES: frozenset[Part] = frozenset(("calls", "admin", "metrics"))
ALPN = {"hypercorn": ("h2", "http/1.1"), "uvicorn": ("http/1.1",)}
"""What each server offers in a TLS handshake."""


class ServeError(CommandError):
    """Serving is impossible; the text is one sentence with the remedy."""


class Listener:
    """A bound socket, the pages that it serves, and its certificates. Closing is idempotent."""

    def __init__(
        self,
        bound: socket.socket,
        *,
        pages: frozenset[Part] = ALL_PAGES,
        section: ServerConfig | ListenerConfig | None = None,
        certificates: Certificates | None = None,
    ) -> None:
        self.socket = bound
        self.pages = pages
        self.certificates = certificates
        tls = None if section is None else section.tls
        self.rules = () if tls is None else tls.principals
        self._path = "" if section is None else section.unix

    @property
    def url(self) -> str:
        """Under which a client on this machine reaches it."""
        return url_of(self.socket, tls=self.certificates is not None)

    def close(self) -> None:
        """Close the socket; the file of a unix socket goes with it."""
        if self._path and self.socket.fileno() >= 0:
            Path(self._path).unlink(missing_ok=True)
        self.socket.close()


def open_listeners(settings: ServerConfig, *, server: str) -> list[Listener]:
    """The listeners of a configuration with absolute paths, bound, the public one first. Raises
    `ServeError` and `CertificateError`, and then none is left open."""
    public = ALL_PAGES
    wanted: list[tuple[str, frozenset[Part], ServerConfig | ListenerConfig]] = []
    apart: dict[Part, ListenerConfig | None] = {
        "admin": settings.admin,
        "metrics": settings.metrics,
    }
    for part, listener in apart.items():
        if listener is not None:
            public -= {part}
            wanted.append((f"server.{part}", frozenset((part,)), listener))
    opened: list[Listener] = []
    try:
        for path, pages, section in [("server", public, settings), *wanted]:
            opened.append(_open(path, pages, section, ALPN[server]))
    except CommandError:
        close_all(opened)
        raise
    return opened


def check_certificates(settings: ServerConfig) -> None:
    """Raises `CertificateError` for the first listener whose certificates cannot be used."""
    sections = {"server": settings, "server.admin": settings.admin}
    sections["server.metrics"] = settings.metrics
    for path, section in sections.items():
        if section is not None and section.tls is not None:
            Certificates(section.tls, f"{path}.tls", ())


def close_all(listeners: Sequence[Listener]) -> None:
    """Close every listener."""
    for listener in listeners:
        listener.close()


def _open(
    path: str,
    pages: frozenset[Part],
    section: ServerConfig | ListenerConfig,
    alpn: Sequence[str],
) -> Listener:
    tls = section.tls
    certificates = None if tls is None else Certificates(tls, f"{path}.tls", alpn)
    bound = bind_unix(section.unix) if section.unix else bind(section.host, section.port)
    return Listener(bound, pages=pages, section=section, certificates=certificates)


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


def bind_unix(path: str) -> socket.socket:
    """A bound unix socket for this user and group; what a process that is gone left behind is
    replaced. Raises `ServeError`."""
    file = Path(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if file.exists() and stat.S_ISSOCK(file.stat().st_mode):
            if _answers(path):
                raise ServeError(f"Somebody listens on {path} already; choose another path.")
            file.unlink()
        listener.bind(path)
        file.chmod(0o660)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ServeError(f"Cannot listen on {path}: {reason}.") from error
    except ServeError:
        listener.close()
        raise
    return listener


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
        return True


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


def url_of(listener: socket.socket, *, tls: bool = False) -> str:
    """The URL under which a client on this machine reaches `listener`."""
    if listener.family == socket.AF_UNIX:
        return f"unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - only shown
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
