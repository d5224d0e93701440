"""Budgets over HTTP: how they are, with what calls under way have reserved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmgw_server.admin.actions import Action
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_core.gateway import Gateway


class BudgetPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [Action("GET", "/budgets", self.find_all)]

    async def find_all(self, request: Request) -> Response:
        """Every budget: spent, reserved by calls under way, remaining, and when it begins anew.
        Amounts of money are in nano-units of the currency."""
        gateway = self._gateway
        currency = gateway.config.accounting.currency
        return as_json({"currency": currency, "data": gateway.budgets.states()})
