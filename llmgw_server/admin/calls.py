"""What calls run now and what became of one: without content, by internal ids."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.responses import Response

from llmgw_core.domain.errors import GatewayError, invalid_request
from llmgw_core.pipeline.overview import load
from llmgw_core.reports.raw_rows import as_json_lines, pages
from llmgw_server.admin.actions import REFUSALS, Action, refused
from llmgw_server.call_facts import Told, facts
from llmgw_server.pages import as_json

if TYPE_CHECKING:
    from starlette.requests import Request

    from llmgw_core.gateway import Gateway


_CURSOR = {
    "after": "The cursor of the last row that is known; 0, the default, begins with the first.",
    "limit": "At most so many rows, from 1 to 10,000 (default 1,000).",
}
_MOST = 10_000
_DIGITS = 18


class CallPages:
    """See the module."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def actions(self) -> list[Action]:
        """Every page of this group."""
        return [
            Action("GET", "/calls/running", self.running),
            Action("GET", "/calls/{call_id}", self.one),
            Action("GET", "/ledger", self.ledger, query=_CURSOR),
        ]

    async def running(self, request: Request) -> Response:
        """The calls that run now, and what all of them since the start add up to."""
        return as_json(load(self._gateway.stats, time.monotonic()))

    async def one(self, request: Request) -> Response:
        """What became of one call: attempts, tokens, price, and what decided."""
        try:
            told = await self._told(request.path_params["call_id"])
        except REFUSALS as error:
            return refused(error, request)
        return as_json(told)

    async def ledger(self, request: Request) -> Response:
        """Rows of the ledger as JSON lines, in the order of their cursors: none is missed and none
        comes twice if `after` is the cursor of the last row of the reply before."""
        try:
            after = _number(request, "after", 0, 0, 10**18)
            limit = _number(request, "limit", 1000, 1, _MOST)
            found = [
                row async for page in pages(self._gateway.ledger, after, most=limit) for row in page
            ]
        except REFUSALS as error:
            return refused(error, request)
        return Response(as_json_lines(found), media_type="application/x-ndjson")

    async def _told(self, call_id: str) -> Told:
        gateway = self._gateway
        refusal = next((each for each in gateway.stats.refused if each.call_id == call_id), None)
        now = load(gateway.stats, time.monotonic()).running
        running = next((each for each in now if each.call_id == call_id), None)
        record = None if running else await gateway.ledger.get(call_id)
        if record is None and running is None:
            # Perhaps it has ended just now, and its record is still on the way.
            await gateway.mover.move_once()
            record = await gateway.ledger.get(call_id)
        if record is None and running is None and refusal is None:
            raise GatewayError(
                404, "no_such_call", "There is no such call on the books.", should_retry=False
            )
        return Told(None if record is None else facts(record), running, refusal)


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """The parameter `name`. Raises `GatewayError`."""
    texts = request.query_params.getlist(name) or [str(default)]
    text = texts[0] if len(texts) == 1 else ""
    plain = text.isascii() and text.isdecimal() and len(text) <= _DIGITS
    if not (plain and least <= int(text) <= most):
        raise invalid_request(f"'{name}' is a whole number from {least} to {most}.", param=name)
    return int(text)
