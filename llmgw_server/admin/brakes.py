"""The brake for loops over HTTP: how fast keys spend, and lifting it for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.tenancy.brakes import HOUR
from llmgw_server.admin.actions import REFUSALS, Action, read_body, refused
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_core.gateway import Gateway

ACTOR = "admin API"
_ORGANIZATION = {"organization": "of the key, when several organisations have one of this name"}


class LiftRequest(msgspec.Struct, forbid_unknown_fields=True):
    """For how many seconds velocity refuses nothing; 0 takes it back."""

    seconds: float = HOUR


class BrakePages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/brakes", self.find_all),
            Action("POST", "/keys/{key}/lift", self.lift, body=LiftRequest, query=_ORGANIZATION),
        ]

    async def find_all(self, request: Request) -> Response:
        """The keys that the brake watches in this process: what their run has come to, what they
        have spent in the last ten minutes and what is usual. Money is in nano-units."""
        gateway = self._gateway
        currency = gateway.config.accounting.currency
        return as_json({"currency": currency, "data": gateway.brakes.states()})

    async def lift(self, request: Request) -> Response:
        """Have the velocity of a key (id or name) refuse nothing for an hour, or as long as the
        body says; in force in this process when the reply is there."""
        try:
            wanted = await read_body(request, LiftRequest)
            info, until = await self._gateway.braking.lift(
                request.path_params["key"],
                seconds=wanted.seconds,
                organization=request.query_params.get("organization"),
                actor=ACTOR,
            )
        except REFUSALS as error:
            return refused(error, request)
        return as_json({"id": info.id, "name": info.name, "lifted_until": until})
