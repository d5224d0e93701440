"""Telling a `FaultServer` in another process what to do, over HTTP on a port of its own: the
server's own port may just be refusing connections.

`GET /` explains itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import msgspec

from llmgw_core.testing.faults.catalog import FAULTS
from llmgw_core.testing.faults.scenario import SCENARIOS, Scenario
from llmgw_core.testing.faults.statuses import error
from llmgw_core.testing.model_server import JSON
from llmgw_core.testing.upstream import Peer, Upstream, http_reply

if TYPE_CHECKING:
    from types import TracebackType

    from llmgw_core.testing.faults.server import FaultServer
    from llmgw_core.testing.recorded_request import RecordedRequest

_TEXT = ((b"content-type", b"text/plain; charset=utf-8"),)
HELP = """An upstream that fails as it is told to.

GET    /          this text
GET    /faults    what can go wrong, with what it means for a caller
GET    /scenario  what happens now
PUT    /scenario  something else: the name of a fault or of a scenario, or a JSON object like
                  {"requests": ["429", "reset"], "share": {"503": 0.1}, "always": "ok", "seed": 7}
GET    /calls     what was asked, and what was given
DELETE /calls     forget them
POST   /release   go on where something stalls

Scenarios:
"""


class Control:
    """The control port of `server`; an asynchronous context manager."""

    def __init__(self, server: FaultServer, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._server = server
        self._upstream = Upstream(self._serve, host=host, port=port)

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._upstream.port

    async def __aenter__(self) -> Self:
        await self._upstream.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._upstream.__aexit__(kind, error, trace)

    async def _serve(self, peer: Peer) -> None:
        while True:
            try:
                request = await peer.request()
            except ValueError:
                return
            try:
                reply = await self._answer(request)
            except ValueError as wrong:  # a fault, a scenario or JSON that there is not
                reply = http_reply(400, error(str(wrong), "invalid_request_error"), JSON)
            await peer.send(reply)
            if request.last:
                return

    async def _answer(self, request: RecordedRequest) -> bytes:
        server = self._server
        match request.method, request.target:
            case "GET", "/":
                return http_reply(200, explanation().encode(), _TEXT)
            case "GET", "/faults":
                return _json([_described(name) for name in FAULTS])
            case "GET", "/scenario":
                return _json(server.scenario)
            case "PUT", "/scenario":
                await server.use(scenario_of(request.body))
                return _json(server.scenario)
            case "GET", "/calls":
                return _json(server.calls)
            case "DELETE", "/calls":
                server.calls.clear()
                return _json([])
            case "POST", "/release":
                server.release()
                return _json({})
        return http_reply(404, error("GET / says what there is.", "invalid_request_error"), JSON)


def explanation() -> str:
    """What there is, for people."""
    lines = [f"  {name:<12}{scenario.summary}" for name, scenario in SCENARIOS.items()]
    return HELP + "\n".join(lines) + "\n\nFaults:\n" + listing() + "\n"


def listing() -> str:
    """The faults, one a line."""
    return "\n".join(f"  {fault.name:<20}{fault.summary}" for fault in FAULTS.values())


def scenario_of(text: bytes) -> Scenario:
    """The name of a scenario or a fault, or a scenario as JSON. Raises `ValueError`."""
    word = text.decode().strip()
    if word.startswith("{"):
        return msgspec.json.decode(word, type=Scenario)
    return SCENARIOS.get(word) or Scenario(always=word)


def _described(name: str) -> dict[str, Any]:
    fault = FAULTS[name]
    fields = ("name", "summary", "complete", "stream")
    return {field: getattr(fault, field) for field in fields}


def _json(value: Any) -> bytes:
    return http_reply(200, msgspec.json.encode(value), JSON)
