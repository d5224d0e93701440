"""What the types cannot say about the section `server`. Pure, like `validate`."""

from __future__ import annotations

import itertools
import math
import re
from typing import TYPE_CHECKING

from llmgw_core.config.errors import join
from llmgw_core.domain.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmgw_core.config.schema import CertificateRule, ListenerConfig, ServerConfig, TlsConfig

ADMIN_KEY_LENGTH = 16
HEAD_BYTES = 1024
"""The least that a head must be allowed: less refuses ordinary clients."""
_ANY_HOST = {"", "0.0.0.0", "::"}  # noqa: S104 -- compared with
_FINGERPRINT = re.compile(r"(?:[0-9a-fA-F]{2}:?){32}")
_MATCHES = ("common_name", "dns", "uri", "fingerprint")


def server_errors(server: ServerConfig) -> Iterator[ConfigError]:
    """Every error in the section."""
    yield from _listener(server, "server")
    for name in ("admin", "metrics"):
        listener: ListenerConfig | None = getattr(server, name)
        if listener is not None:
            path = join("server", name)
            yield from _listener(listener, path)
            if listener.tls is not None and listener.tls.principals:
                message = "only callers of models have principals; leave it out."
                yield ConfigError(message, path=join(join(path, "tls"), "principals"))
    yield from _apart(server)
    yield from _workers(server)
    if server.admin_key and len(server.admin_key) < ADMIN_KEY_LENGTH:
        message = f"must have at least {ADMIN_KEY_LENGTH} characters."
        yield ConfigError(message, path="server.admin_key")
    if server.admin is not None and not server.admin_key:
        message = "the admin pages are off without `server.admin_key`: give one, or remove this."
        yield ConfigError(message, path="server.admin")
    yield from _numbers(server)


def _listener(listener: ServerConfig | ListenerConfig, path: str) -> Iterator[ConfigError]:
    if not listener.host.strip():
        message = "must not be empty; leave it out for the default."
        yield ConfigError(message, path=join(path, "host"))
    if not 0 <= listener.port <= 65535:
        message = "must be from 1 to 65535, or 0 for any free port."
        yield ConfigError(message, path=join(path, "port"))
    if listener.tls is not None:
        yield from _tls(listener.tls, join(path, "tls"))


def _tls(tls: TlsConfig, path: str) -> Iterator[ConfigError]:
    for field in ("certificate", "key", "client_ca"):
        value: str = getattr(tls, field)
        if value.startswith("file:") or "-----BEGIN" in value:
            message = "names the file itself: write its path, without `file:`."
            yield ConfigError(message, path=join(path, field))
        elif not value.strip() and field != "client_ca":
            message = "must name a PEM file; TLS needs a certificate and its private key."
            yield ConfigError(message, path=join(path, field))
    if not tls.client_ca and tls.principals:
        message = (
            "client certificates are checked against `client_ca`: name the file with the"
            " authorities, or remove this."
        )
        yield ConfigError(message, path=join(path, "principals"))
    for index, rule in enumerate(tls.principals):
        yield from _rule(rule, join(join(path, "principals"), index))


def _rule(rule: CertificateRule, path: str) -> Iterator[ConfigError]:
    if not any(getattr(rule, field) for field in _MATCHES):
        message = f"fits every certificate; give one of {', '.join(_MATCHES)}."
        yield ConfigError(message, path=path)
    if rule.fingerprint and not _FINGERPRINT.fullmatch(rule.fingerprint):
        message = "must be the SHA-256 of the certificate: 64 hexadecimal digits."
        yield ConfigError(message, path=join(path, "fingerprint"))
    above = rule.organization or rule.team or rule.user
    if rule.key and above:
        message = "a key lies in its own organisation: give `key` alone, or leave it out."
        yield ConfigError(message, path=join(path, "key"))
    elif not rule.key and not rule.organization:
        message = "must say who calls: `organization` (with `team`, `user`), or the id of a `key`."
        yield ConfigError(message, path=path)


def _apart(server: ServerConfig) -> Iterator[ConfigError]:
    """No two listeners in one place."""
    named: list[tuple[str, ServerConfig | ListenerConfig]] = [("server", server)]
    for name in ("admin", "metrics"):
        listener = getattr(server, name)
        if listener is not None:
            named.append((join("server", name), listener))
    for (first, one), (second, other) in itertools.combinations(named, 2):
        if one.unix or other.unix:
            same = one.unix == other.unix
            place, field = other.unix, "unix"
        else:
            hosts = {one.host, other.host}
            same = bool(one.port) and one.port == other.port
            same = same and (len(hosts) == 1 or bool(hosts & _ANY_HOST))
            place, field = f"port {other.port}", "port"
        if same:
            message = f"{place} is that of `{first}`, too; choose another."
            yield ConfigError(message, path=join(second, field))


def _workers(server: ServerConfig) -> Iterator[ConfigError]:
    if server.workers < 1:
        yield ConfigError("must be 1.", path="server.workers")
    elif server.workers > 1:
        message = (
            "must be 1: several workers need a limiter that they share,"
            " or each would grant the whole limit."
        )
        yield ConfigError(message, path="server.workers")


def _numbers(server: ServerConfig) -> Iterator[ConfigError]:
    if not 0 <= server.drain_seconds < math.inf:
        message = "must be a number of seconds, 0 or more."
        yield ConfigError(message, path="server.drain_seconds")
    for field in ("head_seconds", "keep_alive_seconds", "write_seconds"):
        value: float = getattr(server, field)
        if not 0 < value < math.inf:
            message = "must be a number of seconds greater than 0."
            yield ConfigError(message, path=join("server", field))
    if server.head_bytes < HEAD_BYTES:
        message = f"must be at least {HEAD_BYTES} bytes, or ordinary requests are refused."
        yield ConfigError(message, path="server.head_bytes")
    if server.max_connections < 1:
        yield ConfigError("must be at least 1.", path="server.max_connections")
