"""Usage and costs in the shapes of OpenAI's usage API, so that tools which read those read these:
for whoever has the admin key, as OpenAI's own are for who has an admin key of theirs.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import Response

from llmgw_core.reports.pages import page
from llmgw_core.reports.question import read_question
from llmgw_server.admin.actions import REFUSALS, Action, refused

if TYPE_CHECKING:
    from starlette.requests import Request

    from llmgw_core.gateway import Gateway
    from llmgw_core.reports.question import Subject
    from llmgw_core.store.ledger import Ledger

PREFIX = "/v1/organization"
_QUERY = {
    "start_time": "Seconds since the epoch; the bucket that it lies in is the first.",
    "end_time": "Seconds since the epoch; nothing from then on. By default now.",
    "bucket_width": "1d (the default) or 1h; of costs 1d.",
    "group_by": "Any of organization_id, project_id (a team), user_id, api_key_id and model.",
    "organization_ids": "Only those.",
    "project_ids": "Only those teams.",
    "user_ids": "Only those.",
    "api_key_ids": "Only those.",
    "models": "Only those, as they were asked for.",
    "limit": "Buckets on a page.",
    "page": "The `next_page` of the page before.",
}
_COSTS = {
    **{name: text for name, text in _QUERY.items() if name != "models"},
    "group_by": "Any of organization_id, project_id (a team), user_id, api_key_id and line_item.",
    "line_items": "Only those, by their whole names.",
    "side": "charge (the default): what tenants pay; cost: what providers bill.",
}


class OrganizationPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group; they have a prefix of their own."""
        return [
            Action("GET", "/usage/completions", self.completions, query=_QUERY),
            Action("GET", "/usage/embeddings", self.embeddings, query=_QUERY),
            Action("GET", "/costs", self.costs, query=_COSTS),
        ]

    async def completions(self, request: Request) -> Response:
        """Tokens and requests of chat completions, by the day or hour."""
        return await self._page("completions", request)

    async def embeddings(self, request: Request) -> Response:
        """Tokens and requests of embeddings, by the day or hour."""
        return await self._page("embeddings", request)

    async def costs(self, request: Request) -> Response:
        """What was charged, or cost, by the day."""
        return await self._page("costs", request)

    async def _page(self, subject: Subject, request: Request) -> Response:
        gateway = self._gateway
        try:
            question = read_question(subject, request.query_params.multi_items(), int(time.time()))
            config = gateway.config

            async def answer(ledger: Ledger) -> bytes:
                found = page(question, ledger, config.reports, config.accounting.currency)
                return msgspec.json.encode(await found)

            return Response(await gateway.ledger.apart(answer), media_type="application/json")
        except REFUSALS as error:
            return refused(error, request)
