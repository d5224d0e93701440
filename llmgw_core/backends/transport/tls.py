"""TLS contexts for origins and proxies: built in a thread, because loading the CA store takes tens
of milliseconds, and built anew when their files change.

Who opens a connection asks for the context; at most once a second that looks at the files. Files
that cannot be used (half of a pair is written, one has vanished) leave the last good context in
place. Connections that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from llmgw_core.backends.transport.port import TransportError

if TYPE_CHECKING:
    from llmgw_core.domain.deployment import Origin
    from llmgw_core.domain.outgoing import Outgoing

LOOK_SECONDS: Final = 1.0
"""Files are looked at no more often than this."""

log = logging.getLogger("llmgw.tls")


class TlsFiles(msgspec.Struct, frozen=True):
    """Paths of PEM files. `system_ca`: the system's authorities are trusted besides `ca_file`."""

    ca_file: str = ""
    system_ca: bool = True
    client_cert: str = ""
    client_key: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Those that are given."""
        return tuple(filter(None, (self.ca_file, self.client_cert, self.client_key)))


def files_for(origin: Origin, outgoing: Outgoing) -> TlsFiles:
    """What an origin says itself goes before what holds for all: its own CA is the only one that
    is trusted for it."""
    own_ca, own_pair = bool(origin.ca_file), bool(origin.client_cert)
    return TlsFiles(
        origin.ca_file if own_ca else outgoing.ca_file,
        outgoing.system_ca and not own_ca,
        origin.client_cert if own_pair else outgoing.client_cert,
        origin.client_key if own_pair else outgoing.client_key,
    )


def build_context(files: TlsFiles) -> ssl.SSLContext:
    """A verifying client context. Blocking. Raises `OSError` or `ssl.SSLError` for files that
    are missing or are not what they should be."""
    only = files.ca_file and not files.system_ca
    context = ssl.create_default_context(cafile=files.ca_file if only else None)
    if files.ca_file and not only:
        context.load_verify_locations(files.ca_file)
    context.set_alpn_protocols(["http/1.1"])
    if files.client_cert:
        context.load_cert_chain(files.client_cert, files.client_key or None)
    return context


class TlsContext:
    """The context made of some files, built when first needed; concurrent first users share it."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._context: ssl.SSLContext | None = None
        self._seen: list[object] = []
        self._refused: list[object] = []
        self._look_at = 0.0
        self._building = asyncio.Lock()

    async def get(self) -> ssl.SSLContext:
        """Raises `TransportError` kind `tls`."""
        context = self._context
        if context is not None and not self._due():
            return context
        async with self._building:
            if self._context is None or self._due():
                self._context = await self._renewed(self._context)
            return self._context

    def _due(self) -> bool:
        return bool(self._files.paths) and asyncio.get_running_loop().time() >= self._look_at

    async def _renewed(self, current: ssl.SSLContext | None) -> ssl.SSLContext:
        self._look_at = asyncio.get_running_loop().time() + LOOK_SECONDS
        seen = await asyncio.to_thread(_versions, self._files.paths)
        if current is not None and seen == self._seen:
            return current
        try:
            context = await asyncio.to_thread(build_context, self._files)
        except OSError as error:
            if current is None:
                raise TransportError(
                    "tls", "connect", f"the certificate files cannot be used: {error}"
                ) from error
            if seen != self._refused:
                self._refused = seen
                log.warning("Changed certificate files cannot be used, the old hold on: %s", error)
            return current
        if current is not None:
            log.info("Certificate files have changed: %s", ", ".join(self._files.paths))
        self._seen = seen
        return context


def _versions(paths: tuple[str, ...]) -> list[object]:
    """Something that differs when one of the files has changed."""
    found: list[object] = []
    for path in paths:
        try:
            status = Path(path).stat()
        except OSError:
            found.append(None)
        else:
            found.append((status.st_mtime_ns, status.st_size, status.st_ino))
    return found
