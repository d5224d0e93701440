"""What is loaded and how it is: plugins, status, the history of configurations, and the reload."""

from __future__ import annotations

import asyncio
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from llmgw_core.config.history import History
from llmgw_core.domain.errors import ConfigError, GatewayError
from llmgw_server.admin.actions import Action
from llmgw_server.pages import as_error, as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_server.app import Application
    from llmgw_server.pages import Pages


class RunningPages:
    """See the module."""

    def __init__(self, application: Application, pages: Pages) -> None:
        self._application = application
        self._gateway = application.gateway
        self._pages = pages

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/plugins", self.plugins),
            Action("GET", "/status", self.status),
            Action("POST", "/reload", self.reload),
            Action("GET", "/config/history", self.history),
        ]

    async def plugins(self, request: Request) -> Response:
        """The enabled plugins in their order, with what they did so far."""
        return as_json({"data": self._gateway.host.describe()})

    async def status(self, request: Request) -> Response:
        """Version, readiness and load of this process."""
        return as_json(
            {
                "version": _version(),
                "generation": self._gateway.generation,
                "generations": self._gateway.generations,
                "ready": not self._pages.reasons(),
                "reasons": self._pages.reasons(),
                "requests_in_flight": self._application.in_flight,
                "calls_in_flight": self._gateway.stats.in_flight,
            }
        )

    async def reload(self, request: Request) -> Response:
        """Go on with what the configuration says now; 409 with every error when it cannot be."""
        try:
            return as_json(await self._gateway.reload(trigger="admin API"))
        except ConfigError as error:
            refusal = GatewayError(
                409, "configuration_refused", f"Nothing has changed. {error}", should_retry=False
            )
            return as_error(refusal, request)

    async def history(self, request: Request) -> Response:
        """The configurations that were loaded, the oldest first, without their texts."""
        entries = await asyncio.to_thread(History.of(self._gateway.config).entries)
        fields = ("number", "at", "sha256", "trigger", "file")
        return as_json(
            {"data": [{name: getattr(entry, name) for name in fields} for entry in entries]}
        )


def _version() -> str:
    """Of the distribution; empty when the gateway runs from its sources."""
    try:
        return version("llmgw")
    except PackageNotFoundError:
        return ""
