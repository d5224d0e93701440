"""What a deployment of the backend `openai` may say, worked out once per deployment.

Clients have no say in where a call goes: the address is configuration, checked at start-up.
"""

from __future__ import annotations

import re
from functools import cached_property
from urllib.parse import urlsplit

import msgspec

from llmgw_core.domain.deployment import Origin

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
"""A header name in lower case (RFC 9110, section 5.6.2)."""
_VALUE = re.compile(r"[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?")
"""A header value (RFC 9110, section 5.5)."""
_PATH = re.compile(r"[A-Za-z0-9\-._~!$&'()*+,;=:@%/]*")
RESERVED = frozenset(
    {
        "accept-encoding",
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "expect",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that the gateway sets itself."""


class OptionError(Exception):
    """An option cannot work. `option` is its name, the text a sentence."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class Upstream(msgspec.Struct, frozen=True):
    """What a call needs to know. `auth_header` and `auth_scheme` are empty for OpenAI's own
    bearer header; else the credential follows the scheme in that header."""

    origin: Origin
    path_prefix: str
    headers: tuple[tuple[bytes, bytes], ...]
    auth_header: bytes
    auth_scheme: bytes


class OpenAIOptions(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True
):
    """Settings of one upstream.

    `base_url`: where its API lives, usually with `/v1` at the end. `organization` and
    `project`: OpenAI's headers of that name. `headers`: further fixed headers. `ca_file`,
    `client_cert`, `client_key`: PEM files for TLS. `auth_header`: the header that carries the
    credential and the word before it: `NAME: SCHEME` or `NAME` alone.
    """

    base_url: str
    organization: str = ""
    project: str = ""
    headers: dict[str, str] = {}
    ca_file: str = ""
    client_cert: str = ""
    client_key: str = ""
    auth_header: str = "authorization: Bearer"

    @cached_property
    def upstream(self) -> Upstream:
        """All of it, checked and encoded. Raises `OptionError`."""
        origin, path_prefix = self._address()
        name, scheme = self._auth()
        return Upstream(origin, path_prefix, self._headers(name), name, scheme)

    def _address(self) -> tuple[Origin, str]:
        try:
            url = urlsplit(self.base_url)
            port = url.port
        except ValueError as error:
            raise OptionError("base_url", f"is not a URL: {error}.") from None
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise OptionError("base_url", "must look like https://host/v1 or http://host:port/v1.")
        if "@" in url.netloc:
            raise OptionError(
                "base_url", "must not contain a user; use the deployment's credential."
            )
        if "?" in self.base_url or "#" in self.base_url:
            raise OptionError("base_url", "must not contain a query or a fragment.")
        if port == 0 or not _PATH.fullmatch(url.path) or not _is_host(url.hostname):
            raise OptionError("base_url", "contains a character or a port that no URL has.")
        secure = url.scheme == "https"
        if not secure and (self.ca_file or self.client_cert):
            raise OptionError("base_url", "must be https when TLS files are given.")
        if bool(self.client_cert) != bool(self.client_key):
            raise OptionError("client_cert", "and client_key need each other.")
        origin = Origin(
            url.scheme,
            url.hostname,
            port or (443 if secure else 80),
            self.ca_file,
            self.client_cert,
            self.client_key,
        )
        return origin, url.path.rstrip("/")

    def _auth(self) -> tuple[bytes, bytes]:
        name, _, scheme = self.auth_header.partition(":")
        name, scheme = name.strip().lower(), scheme.strip()
        usable = name == "authorization" or name not in RESERVED
        if not usable or not _TOKEN.fullmatch(name) or (scheme and not is_header_value(scheme)):
            raise OptionError("auth_header", "must be a header's name, or NAME: SCHEME.")
        if (name, scheme) == ("authorization", "Bearer"):
            return b"", b""
        return name.encode(), scheme.encode("latin-1") + b" " if scheme else b""

    def _headers(self, auth_name: bytes) -> tuple[tuple[bytes, bytes], ...]:
        fixed = [("openai-organization", self.organization), ("openai-project", self.project)]
        pairs = [pair for pair in fixed if pair[1]]
        pairs += [(name.lower(), value) for name, value in self.headers.items()]
        seen: set[str] = {auth_name.decode()}
        for name, value in pairs:
            if not _TOKEN.fullmatch(name) or not is_header_value(value):
                raise OptionError("headers", f"{name!r} or its value is not valid in HTTP.")
            if name in RESERVED or name in seen:
                raise OptionError("headers", f"{name!r} is set by the gateway or given twice.")
            seen.add(name)
        return tuple((name.encode(), value.encode("latin-1")) for name, value in pairs)


def is_header_value(text: str) -> bool:
    """Whether `text` can be the value of a header."""
    return _VALUE.fullmatch(text) is not None


def _is_host(host: str) -> bool:
    return host.isascii() and not re.search(r"[\s%\\<>\"{}|^`]", host)
