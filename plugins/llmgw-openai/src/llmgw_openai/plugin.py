"""The plugin and its backend. There is nothing to translate: OpenAI's form is the gateway's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.backends.inquiry import ModelsInquiry, engine_page
from llmgw_core.domain.errors import ConfigError
from llmgw_core.hooks.specs import hookimpl
from llmgw_openai.options import OpenAIOptions, OptionError, is_header_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.backends.inquiry import Inquiry
    from llmgw_core.backends.port import Backend, Session
    from llmgw_core.backends.transport.port import HttpRequest
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment, Origin
    from llmgw_core.hooks.context import PluginContext
    from llmgw_openai.options import Upstream


class OpenAIBackend:
    """The backend `openai`."""

    name = "openai"
    Options: type[msgspec.Struct] = OpenAIOptions

    def origin(self, deployment: Deployment) -> Origin:
        """See the port."""
        options: OpenAIOptions = deployment.options
        return options.upstream.origin

    def begin(self, call: Call, deployment: Deployment, credential: str) -> Session:
        """See the port."""
        options: OpenAIOptions = deployment.options
        upstream = options.upstream
        headers = upstream.headers
        if upstream.auth_header and credential:
            secret = upstream.auth_scheme + credential.encode("latin-1")
            headers = (*headers, (upstream.auth_header, secret))
            credential = ""
        return CanonicalSession(
            call, deployment, credential, path_prefix=upstream.path_prefix, extra_headers=headers
        )

    def inquire(self, deployment: Deployment, credential: str) -> Inquiry:
        """The list of models, asked with the credential."""
        upstream = deployment.options.upstream
        return ModelsInquiry(upstream.path_prefix, _headers(upstream, credential))

    def page(self, deployment: Deployment, credential: str, path: str) -> HttpRequest:
        """One of the engine's own pages, asked with the credential."""
        upstream = deployment.options.upstream
        return engine_page(upstream.path_prefix, path, _headers(upstream, credential))

    def check(self, deployment: Deployment) -> None:
        """See the port: the address, the headers, the credential and the TLS files."""
        options: OpenAIOptions = deployment.options
        try:
            origin = options.upstream.origin
        except OptionError as error:
            raise ConfigError(str(error), path=error.option) from error
        secret = deployment.credential.value
        if secret and not is_header_value(secret):
            raise ConfigError("contains a character that no header can carry.", path="credential")
        for name in ("ca_file", "client_cert", "client_key"):
            path = getattr(origin, name)
            if path and not Path(path).is_file():
                raise ConfigError(f"there is no file {path}.", path=name)


def _headers(upstream: Upstream, credential: str) -> list[tuple[bytes, bytes]]:
    """The fixed headers, and the one with the credential."""
    headers = list(upstream.headers)
    if credential:
        name = upstream.auth_header or b"authorization"
        scheme = upstream.auth_scheme if upstream.auth_header else b"Bearer "
        headers.append((name, scheme + credential.encode("latin-1")))
    return headers


class OpenAIPlugin:
    """Registers the backend `openai`."""

    class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Nothing to configure here: everything is an option of a deployment."""

    def __init__(self, config: Config, context: PluginContext) -> None:
        self._backend = OpenAIBackend()

    @hookimpl
    def register_backends(self) -> Sequence[Backend]:
        """The backend `openai`."""
        return (self._backend,)
