"""Emergency switches over HTTP: in force in this process when the reply is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast, get_args

import msgspec

from llmgw_core.domain.errors import invalid_request
from llmgw_core.domain.switch import SwitchKind
from llmgw_core.tenancy.errors import NotFound
from llmgw_server.admin.actions import REFUSALS, Action, read_body, refused
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_core.gateway import Gateway

ACTOR = "admin API"
_ORGANIZATION = {"organization": "of a team, when several organisations have one of this name"}


class SwitchRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A switch to be set. `kind`: what `name` is; with `route`, calls for the model `name` go to
    the model `target`. `expires_at`: seconds since the epoch; none: until it is taken back. `cut`:
    end the calls as well that run on it now."""

    kind: SwitchKind
    name: str
    reason: str
    target: str = ""
    expires_at: float | None = None
    organization: str | None = None
    cut: bool = False


class SwitchPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/switches", self.find_all),
            Action("POST", "/switches", self.put, body=SwitchRequest),
            Action("DELETE", "/switches/{kind}/{name:path}", self.remove, query=_ORGANIZATION),
        ]

    async def find_all(self, request: Request) -> Response:
        """What is switched off or routed elsewhere, until when and why."""
        try:
            return as_json({"data": await self._gateway.switches.find_all()})
        except REFUSALS as error:
            return refused(error, request)

    async def put(self, request: Request) -> Response:
        """Switch a deployment, model, team or plugin off, or route a model to another. It replaces
        a switch that is there. Without a plugin, calls pass that it would have held back."""
        switches = self._gateway.switches
        try:
            wanted = await read_body(request, SwitchRequest)
            if wanted.kind == "route":
                switch = await switches.route(
                    wanted.name,
                    wanted.target,
                    reason=wanted.reason,
                    expires_at=wanted.expires_at,
                    cut=wanted.cut,
                    actor=ACTOR,
                )
            elif wanted.target:
                raise invalid_request("Only a route has a target.", param="target")
            else:
                switch = await switches.off(
                    wanted.kind,
                    wanted.name,
                    reason=wanted.reason,
                    expires_at=wanted.expires_at,
                    organization=wanted.organization,
                    cut=wanted.cut,
                    actor=ACTOR,
                )
        except REFUSALS as error:
            return refused(error, request)
        return as_json(switch)

    async def remove(self, request: Request) -> Response:
        """Take a switch or a route back; tells what it was."""
        try:
            kind = request.path_params["kind"]
            if kind not in get_args(SwitchKind):
                raise NotFound(f"A switch is one of {', '.join(get_args(SwitchKind))}.")
            switch = await self._gateway.switches.on(
                cast("SwitchKind", kind),
                request.path_params["name"],
                organization=request.query_params.get("organization"),
                actor=ACTOR,
            )
        except REFUSALS as error:
            return refused(error, request)
        return as_json(switch)
