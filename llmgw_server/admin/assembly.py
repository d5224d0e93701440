"""The admin pages: what is loaded, how it is, and what can be changed while it runs, for whoever
has the admin key.

They exist only when a key is configured: an operator who has not asked for them has nothing to
guard. Each subject is a group of actions in a module of its own.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException

from llmgw_server.admin.brakes import BrakePages
from llmgw_server.admin.budgets import BudgetPages
from llmgw_server.admin.calls import CallPages
from llmgw_server.admin.organization import PREFIX as ORGANIZATION
from llmgw_server.admin.organization import OrganizationPages
from llmgw_server.admin.routing import RoutingPages
from llmgw_server.admin.running import RunningPages
from llmgw_server.admin.statements import StatementPages
from llmgw_server.admin.switching import SwitchPages
from llmgw_server.pages import Page

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_server.admin.actions import Action, Group
    from llmgw_server.app import Application
    from llmgw_server.pages import Pages

logger = logging.getLogger(__name__)

PREFIX = "/admin/v1"


class AdminPages:
    """The admin pages of one application."""

    def __init__(self, application: Application, pages: Pages) -> None:
        gateway = application.gateway
        self._groups: tuple[Group, ...] = (
            RunningPages(application, pages),
            CallPages(gateway),
            SwitchPages(gateway),
            RoutingPages(gateway),
            StatementPages(gateway),
            BudgetPages(gateway),
            BrakePages(gateway),
        )
        self._organization = OrganizationPages(gateway)
        self._key = gateway.config.server.admin_key
        self._told = False

    def routes(self) -> list[Page]:
        """Every admin page; without a key, one that says in the log how to have them."""
        if not self._key:
            return [
                Page("/admin/{path:path}", self._off, access="public", part="admin", listed=False)
            ]
        admin = [self._page(PREFIX, action) for group in self._groups for action in group.actions()]
        return admin + [self._page(ORGANIZATION, action) for action in self._organization.actions()]

    def _page(self, prefix: str, action: Action) -> Page:
        return Page(
            prefix + action.path,
            action.endpoint,
            access="admin",
            part="admin",
            methods=(action.method,),
            admin_key=self._key,
            body=action.body,
            query=action.query,
        )

    async def _off(self, request: Request) -> Response:
        if not self._told:
            self._told = True
            logger.warning(
                "Somebody asked for %s, but the admin pages are off: give server.admin_key to"
                " have them.",
                request.url.path[:200],
            )
        raise HTTPException(404)
