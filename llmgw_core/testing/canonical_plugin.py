"""A backend for tests: speaks OpenAI's own form to a host and port, and nothing else.

Gateway.open(config, plugins=[("canonical", CanonicalPlugin)])
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.backends.canonical import CanonicalSession
from llmgw_core.backends.inquiry import engine_page
from llmgw_core.domain.deployment import Origin
from llmgw_core.hooks.specs import hookimpl

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmgw_core.backends.port import Backend, Session
    from llmgw_core.backends.transport.port import HttpRequest
    from llmgw_core.domain.call import Call
    from llmgw_core.domain.deployment import Deployment
    from llmgw_core.hooks.context import PluginContext


class CanonicalOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the upstream listens."""

    port: int
    host: str = "127.0.0.1"
    scheme: str = "http"


class CanonicalBackend:
    """The backend `canonical`."""

    name = "canonical"
    Options = CanonicalOptions

    def origin(self, deployment: Deployment) -> Origin:
        """See the port."""
        options: CanonicalOptions = deployment.options
        return Origin(options.scheme, options.host, options.port)

    def begin(self, call: Call, deployment: Deployment, credential: str) -> Session:
        """See the port."""
        return CanonicalSession(call, deployment, credential)

    def page(self, deployment: Deployment, credential: str, path: str) -> HttpRequest:
        """One of the engine's own pages."""
        headers = [(b"authorization", b"Bearer " + credential.encode())] if credential else []
        return engine_page("/v1", path, headers)

    def check(self, deployment: Deployment) -> None:
        """Nothing can be wrong."""


class CanonicalPlugin:
    """Registers the backend."""

    def __init__(self, config: None, context: PluginContext) -> None:
        pass

    @hookimpl
    def register_backends(self) -> Sequence[Backend]:
        """See the hook."""
        return (CanonicalBackend(),)
