"""Statements and cost centres over HTTP: what is there, and whose calls go on which cost centre."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmgw_core.domain.errors import GatewayError, invalid_request
from llmgw_core.statements.errors import StatementError
from llmgw_core.statements.export import facts, line_facts
from llmgw_core.tenancy.cost_records import CostLevel  # noqa: TC001 -- msgspec reads it
from llmgw_core.tenancy.errors import NotFound
from llmgw_server.admin.actions import REFUSALS, Action, read_body, refused
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from llmgw_core.gateway import Gateway
    from llmgw_core.statements.lines import Line
    from llmgw_core.statements.records import Statement

ACTOR = "admin API"
_MOST = 10_000
_ORGANIZATION = {"organization": "whose statement, by id or name; without it that of everybody"}
_PAGE = {
    **_ORGANIZATION,
    "after": "the number of the line behind which to go on",
    "limit": f"how many lines, at most {_MOST}; 1000 if it is not given",
}


class CostCenterRequest(msgspec.Struct, forbid_unknown_fields=True):
    """A cost centre to be made. Instants are nanoseconds since the epoch."""

    code: str
    name: str = ""
    owner: str = ""
    valid_from_ns: int | None = None
    valid_until_ns: int | None = None


class AssignRequest(msgspec.Struct, forbid_unknown_fields=True):
    """From `since_ns` (nanoseconds since the epoch; none: now) until `until_ns` (none: until it is
    changed) calls of the organisation, team or key `whose` go on the cost centre `code`; with an
    empty `code` they have none of their own."""

    code: str
    level: CostLevel
    whose: str
    organization: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


class StatementPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/statements", self.find_all, query=_ORGANIZATION),
            Action("GET", "/statements/{period}", self.one, query=_ORGANIZATION),
            Action("GET", "/statements/{period}/lines", self.lines, query=_PAGE),
            Action("GET", "/cost-centers", self.centers),
            Action("POST", "/cost-centers", self.create, body=CostCenterRequest),
            Action("GET", "/cost-centers/assignments", self.assignments),
            Action("POST", "/cost-centers/assignments", self.assign, body=AssignRequest),
        ]

    async def find_all(self, request: Request) -> Response:
        """Every statement: its period, whether it is closed, its sums, and that they are those of
        the ledger."""
        organization = request.query_params.get("organization")
        try:
            found = await self._gateway.statements.find_all(organization=organization)
        except REFUSALS as error:
            return refused(error, request)
        return as_json({"data": [facts(statement) for statement in found]})

    async def one(self, request: Request) -> Response:
        """The statement of a month (`2026-10`), or the one with an id, without its lines."""
        try:
            return as_json(facts(await self._asked(request)))
        except REFUSALS as error:
            return refused(error, request)

    async def lines(self, request: Request) -> Response:
        """The lines of a statement, page by page."""
        try:
            after, limit = _number(request, "after", 0), _number(request, "limit", 1000)
            statement = await self._asked(request)
            lines = await self._read(statement)
            page = [
                line_facts(statement, number, line)
                for number, line in enumerate(lines, 1)
                if after < number <= after + min(limit, _MOST)
            ]
            return as_json({"data": page, "has_more": after + len(page) < len(lines)})
        except REFUSALS as error:
            return refused(error, request)

    async def centers(self, request: Request) -> Response:
        """Every cost centre."""
        try:
            return as_json({"data": await self._gateway.costing.find_all()})
        except REFUSALS as error:
            return refused(error, request)

    async def create(self, request: Request) -> Response:
        """Make a cost centre."""
        try:
            wanted = await read_body(request, CostCenterRequest)
            made = await self._gateway.costing.create(
                wanted.code,
                name=wanted.name,
                owner=wanted.owner,
                valid_from_ns=wanted.valid_from_ns,
                valid_until_ns=wanted.valid_until_ns,
                actor=ACTOR,
            )
        except REFUSALS as error:
            return refused(error, request)
        return as_json(made)

    async def assignments(self, request: Request) -> Response:
        """Whose calls go on which cost centre, and when."""
        try:
            return as_json({"data": await self._gateway.costing.assigned()})
        except REFUSALS as error:
            return refused(error, request)

    async def assign(self, request: Request) -> Response:
        """Put calls on a cost centre, or on none, from an instant on; in force in this process
        when the reply is there. Calls that are on the books stay where they are."""
        costing = self._gateway.costing
        try:
            wanted = await read_body(request, AssignRequest)
            if not wanted.code:
                if wanted.until_ns is not None:
                    raise invalid_request("What ends has no `until_ns`.", param="until_ns")
                ended = await costing.unassign(
                    wanted.level,
                    wanted.whose,
                    organization=wanted.organization,
                    since_ns=wanted.since_ns,
                    actor=ACTOR,
                )
                return as_json({"data": ended})
            made = await costing.assign(
                wanted.code,
                wanted.level,
                wanted.whose,
                organization=wanted.organization,
                since_ns=wanted.since_ns,
                until_ns=wanted.until_ns,
                actor=ACTOR,
            )
        except REFUSALS as error:
            return refused(error, request)
        return as_json({"data": [made]})

    async def _asked(self, request: Request) -> Statement:
        try:
            return await self._gateway.statements.get(
                request.path_params["period"],
                organization=request.query_params.get("organization"),
            )
        except StatementError as error:
            raise NotFound(str(error)) from None

    async def _read(self, statement: Statement) -> list[Line]:
        try:
            return await self._gateway.statements.lines(statement)
        except StatementError as error:
            raise GatewayError(
                500, "statement_changed", str(error), type="server_error", should_retry=False
            ) from None


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise invalid_request(f"{name} is a whole number from 0.", param=name)
    return int(text)
