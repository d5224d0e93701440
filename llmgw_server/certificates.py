"""The certificates of a listener: made into a TLS context, and again whenever the files change.

New handshakes use the newest context that could be made; connections live on with what they
began with. A change is taken up once the files have been the same at two looks, because
certificate and key are seldom replaced in one instant; what cannot be used then is said once, and
the old certificate stays.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from llmgw_server.cli.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.config.schema import TlsConfig

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at the files."""
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2: forward secrecy and authenticated encryption only. 1.3 has no others."""

Stamp = tuple[tuple[int, int, int], ...]


class CertificateError(CommandError):
    """Certificates cannot be used; the text is a sentence with path, reason and remedy."""


class Certificates:
    """The TLS context of a listener. `path` is that of its section in the configuration, `alpn`
    names the protocols that are offered. Raises `CertificateError`."""

    def __init__(self, tls: TlsConfig, path: str, alpn: Sequence[str]) -> None:
        self._tls = tls
        self._path = path
        self._alpn = list(alpn)
        self._seen = self._used = self._stamp()
        self.context = self._load()

    def look(self) -> None:
        """Take up files that have changed, and say when they cannot be used."""
        stamp = self._stamp()
        settled, self._seen = stamp == self._seen, stamp
        if not settled or stamp == self._used:
            return
        self._used = stamp
        try:
            self.context = self._load()
        except CertificateError as error:
            logger.error("%s The old certificate stays in use.", error)  # noqa: TRY400 -- a sentence
        else:
            logger.info("%s: the new certificate is in use.", self._path)

    async def watch(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def _stamp(self) -> Stamp:
        tls = self._tls
        return tuple(_stamp(path) for path in (tls.certificate, tls.key, tls.client_ca) if path)

    def _load(self) -> ssl.SSLContext:
        tls = self._tls
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        v13 = tls.minimum_version == "1.3"
        context.minimum_version = ssl.TLSVersion.TLSv1_3 if v13 else ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(self._alpn)
        self._readable("certificate", tls.certificate)
        self._readable("key", tls.key)
        try:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls.certificate, tls.key, lambda: tls.key_password)
        except (OSError, ValueError) as error:
            raise self._unusable(error) from None
        if tls.client_ca:
            self._expect_clients(context)
        return context

    def _expect_clients(self, context: ssl.SSLContext) -> None:
        tls = self._tls
        self._readable("client_ca", tls.client_ca)
        try:
            context.load_verify_locations(tls.client_ca)
        except OSError:
            message = f"{tls.client_ca} holds no certificate in PEM format."
            raise CertificateError(f"{self._path}.client_ca: {message}") from None
        required = tls.client_certificates == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
        # A resumed session is not checked again: a certificate would outlive its expiry.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0

    def _readable(self, field: str, path: str) -> None:
        try:
            with Path(path).open("rb"):
                return
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}."
            raise CertificateError(f"{self._path}.{field}: {message}") from None

    def _unusable(self, error: Exception) -> CertificateError:
        tls = self._tls
        reason = getattr(error, "reason", None)
        if reason == "KEY_VALUES_MISMATCH":
            text = f"{tls.key} is not the private key of {tls.certificate}."
            return CertificateError(f"{self._path}.key: {text}")
        if reason is None or "DECRYPT" in reason or "PASSWORD" in reason:
            if not _encrypted(tls.key):
                text = f"{tls.certificate} or {tls.key} is not in PEM format."
                return CertificateError(f"{self._path}.certificate: {text}")
            text = f"does not open {tls.key}: give the password that the key is encrypted with."
            return CertificateError(f"{self._path}.key_password: {text}")
        text = f"{tls.certificate} and {tls.key} cannot be used: {reason}."
        return CertificateError(f"{self._path}.certificate: {text}")


def _stamp(path: str) -> tuple[int, int, int]:
    """What changes with the contents of a file; zeros while it cannot be looked at."""
    try:
        status = Path(path).stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _encrypted(path: str) -> bool:
    try:
        return b"ENCRYPTED" in Path(path).read_bytes()
    except OSError:  # it has vanished since it was found unusable
        return False
