"""How calls find their deployment, over HTTP: the deployments as routing sees them, and why a call
would go where it goes. Nobody is called for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from llmgw_core.domain.access import Subject
from llmgw_core.domain.errors import invalid_request
from llmgw_core.pipeline.explanation import Question
from llmgw_server.admin.actions import REFUSALS, Action, read_body, refused
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_core.gateway import Gateway

_MORE_BYTES = 64 * 1024
"""What the question may have beside the request that it is about."""


class ExplainRequest(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Who would call (an API `key`, or the id of one, or an organisation with a team and a user in
    it, by id or name), for which `model`, with which request `body` (default: a short one),
    confined to which `zone`."""

    model: str
    key: str = ""
    key_id: str = ""
    organization: str = ""
    team: str = ""
    user: str = ""
    body: dict[str, Any] = {}
    zone: str = ""

    def question(self) -> Question:
        """The same for the gateway. Raises `GatewayError` 400 when it is not clear who calls."""
        if sum(map(bool, (self.key, self.key_id, self.organization))) > 1:
            raise invalid_request("Who calls? Give one of key, key_id and organization.")
        if (self.team or self.user) and not self.organization:
            raise invalid_request("A team or a user is one of an organization; give that as well.")
        named = self.key_id or self.organization
        return Question(
            model=self.model,
            key=self.key,
            subject=Subject(self.key_id, self.organization, self.team, self.user)
            if named
            else None,
            body=self.body,
            zone=self.zone,
        )


class RoutingPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/deployments", self.deployments),
            Action("POST", "/explain", self.explain, body=ExplainRequest),
        ]

    async def deployments(self, request: Request) -> Response:
        """Every deployment: state, calls in flight, latency, ejections, what its engine reports."""
        return as_json({"data": self._gateway.deployment_rows()})

    async def explain(self, request: Request) -> Response:
        """The candidates of a call in their order, and those that are dropped, with the reason for
        each, without calling anybody."""
        limit = self._gateway.config.requests.body_bytes + _MORE_BYTES
        try:
            asked = await read_body(request, ExplainRequest, limit=limit)
            return as_json(await self._gateway.explain(asked.question()))
        except REFUSALS as error:
            return refused(error, request)
